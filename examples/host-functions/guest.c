/* A guest of the interface kv, in C. guest.rs does the same. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "kv.h"

static void put(kv_store_t store, const char *key, const char *value, kv_put_flags_t how) {
    kv_error_t error = kv_put(store, key, strlen(key), value, strlen(value), how);
    printf("put %s: %s\n", key, kv_error_name(error));
}

static void get(kv_store_t store, const char *key, size_t room) {
    char value[16];
    size_t length;
    kv_error_t error = kv_get(store, key, strlen(key), value, room, &length);
    switch (error) {
    case KV_ERROR_OK:
        printf("get %s: %.*s\n", key, (int)length, value);
        break;
    case KV_ERROR_TOO_SMALL:
        printf("get %s: %s, needs %zu bytes\n", key, kv_error_name(error), length);
        break;
    default:
        printf("get %s: %s\n", key, kv_error_name(error));
    }
}

static void list(kv_store_t store, kv_order_t sorted, size_t room) {
    kv_entry_t entries[4];
    size_t count;
    kv_error_t error = kv_entries(store, sorted, entries, room, &count);
    if (error == KV_ERROR_TOO_SMALL) {
        printf("entries: %s, needs room for %zu\n", kv_error_name(error), count);
        return;
    }
    printf("entries: %s, %zu\n", kv_error_name(error), count);
    for (size_t i = 0; i < count; i++) {
        const char *content = entries[i].content == KV_CONTENT_NUMBER ? "a number" : "something else";
        printf("  %" PRIu32 " bytes, %s%s\n", entries[i].value_bytes, content, entries[i].read_only ? ", read-only" : "");
    }
}

int main(void) {
    kv_store_t store = kv_open("fruit", strlen("fruit"), 3);
    list(store, KV_ORDER_ASCENDING, 0);
    put(store, "cherry", "35", KV_PUT_FLAGS_READ_ONLY);
    put(store, "apple", "red", 0);
    put(store, "banana", "21", KV_PUT_FLAGS_CREATE_NEW);
    put(store, "banana", "22", KV_PUT_FLAGS_CREATE_NEW);
    put(store, "cherry", "36", 0);
    put(store, "date", "1", 0);
    get(store, "banana", 1);
    get(store, "banana", 16);
    get(store, "date", 16);

    for (uint32_t position = 0;; position++) {
        char key[16];
        size_t length;
        uint32_t value_bytes;
        kv_error_t error =
            kv_nth(store, KV_ORDER_DESCENDING, position, key, sizeof key, &length, &value_bytes);
        if (error != KV_ERROR_OK) {
            printf("%" PRIu32 ": %s\n", position, kv_error_name(error));
            break;
        }
        printf("%" PRIu32 ": %.*s, %" PRIu32 " bytes\n", position, (int)length, key, value_bytes);
    }

    list(store, KV_ORDER_ASCENDING, 2);
    list(store, KV_ORDER_ASCENDING, 3);
    list(store, KV_ORDER_DESCENDING, 4);

    int64_t weights[] = {1, -10, 1000000000000};
    printf("sum: %" PRId64 "\n", kv_sum(store, weights, 3));
    kv_usage_t usage;
    kv_usage_of(store, &usage);
    printf("%" PRIu32 " keys, %" PRIu64 " bytes%s\n", usage.keys, usage.bytes_used, usage.is_full ? ", full" : "");
    kv_close(store);
    return 0;
}
