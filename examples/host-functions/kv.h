/* The interface "kv" for guests in C and C++.
 *
 * Stores of keys and values, which live as long as the guest's job.
 *
 * Made by `sandboxctl interface header`: change the interface instead.
 */
#ifndef KV_INTERFACE_H
#define KV_INTERFACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#define KV_STATIC_ASSERT static_assert
#else
#define KV_STATIC_ASSERT _Static_assert
#endif

KV_STATIC_ASSERT(sizeof(void *) == 4, "the interface is for 32-bit WebAssembly");

/* In which order keys are listed. */
typedef uint32_t kv_order_t;
#define KV_ORDER_ASCENDING ((kv_order_t)0) /* Byte by byte. */
#define KV_ORDER_DESCENDING ((kv_order_t)1) /* The other way round. */

/* What a value is. */
typedef uint32_t kv_content_t;
#define KV_CONTENT_NUMBER ((kv_content_t)0) /* Decimal text, which `sum` adds up. */
#define KV_CONTENT_OTHER ((kv_content_t)1) /* Anything else. */

/* Why a store does not do what it is asked for. */
typedef uint32_t kv_error_t;
#define KV_ERROR_OK ((kv_error_t)0) /* Success. */
#define KV_ERROR_NOT_FOUND ((kv_error_t)1) /* There is no such key. */
#define KV_ERROR_EXISTS ((kv_error_t)2) /* There is such a key, and `put_flags` says that there must not be. */
#define KV_ERROR_FULL ((kv_error_t)3) /* The store has as many keys as it can have. */
#define KV_ERROR_TOO_SMALL ((kv_error_t)4) /* The result is longer than the guest's room for it. */

/* The name of a case of kv_error. */
__attribute__((unused)) static inline const char *kv_error_name(kv_error_t error)
{
    switch (error) {
    case KV_ERROR_OK: return "ok";
    case KV_ERROR_NOT_FOUND: return "not_found";
    case KV_ERROR_EXISTS: return "exists";
    case KV_ERROR_FULL: return "full";
    case KV_ERROR_TOO_SMALL: return "too_small";
    default: return "unknown";
    }
}

/* What `put` minds. */
typedef uint32_t kv_put_flags_t;
#define KV_PUT_FLAGS_CREATE_NEW ((kv_put_flags_t)0x1) /* The key must be new. */
#define KV_PUT_FLAGS_READ_ONLY ((kv_put_flags_t)0x2) /* The value cannot be replaced later. */

/* An open store. */
typedef struct kv_store_t {
    uint32_t number; /* never 0 */
} kv_store_t;

/* What a store has for a key. */
typedef struct kv_entry_t {
    uint32_t value_bytes; /* Bytes of the value. */
    bool read_only; /* Whether the value cannot be replaced. */
    kv_content_t content; /* What the value is. */
} kv_entry_t;
KV_STATIC_ASSERT(sizeof(kv_entry_t) == 12, "size of kv_entry_t");
KV_STATIC_ASSERT(offsetof(kv_entry_t, value_bytes) == 0, "offset of value_bytes in kv_entry_t");
KV_STATIC_ASSERT(offsetof(kv_entry_t, read_only) == 4, "offset of read_only in kv_entry_t");
KV_STATIC_ASSERT(offsetof(kv_entry_t, content) == 8, "offset of content in kv_entry_t");

/* What is in a store. */
typedef struct kv_usage_t {
    uint32_t keys; /* Number of keys. */
    uint64_t bytes_used; /* Bytes of all keys and values. */
    bool is_full; /* Whether another key would be refused. */
} kv_usage_t;
KV_STATIC_ASSERT(sizeof(kv_usage_t) == 24, "size of kv_usage_t");
KV_STATIC_ASSERT(offsetof(kv_usage_t, keys) == 0, "offset of keys in kv_usage_t");
KV_STATIC_ASSERT(offsetof(kv_usage_t, bytes_used) == 8, "offset of bytes_used in kv_usage_t");
KV_STATIC_ASSERT(offsetof(kv_usage_t, is_full) == 16, "offset of is_full in kv_usage_t");

/* Opens the store of this name, which is made if there is none.
 *   keys_max: Keys that it can have.
 */
__attribute__((import_module("kv"), import_name("open")))
kv_store_t kv_open(const char *name, size_t name_length, uint32_t keys_max);

/* Stores a value.
 *   returns: KV_ERROR_OK, or why there are no results.
 */
__attribute__((import_module("kv"), import_name("put")))
kv_error_t kv_put(kv_store_t to, const char *key, size_t key_length, const void *value, size_t value_length, kv_put_flags_t how);

/* Reads a value.
 *   value: result, at most `value_room` bytes; their number is written to `value_length`.
 *   returns: KV_ERROR_OK, or why there are no results. With KV_ERROR_TOO_SMALL, the lengths and counts are those that there must be room for.
 * The guest traps when it takes longer than 1s.
 */
__attribute__((import_module("kv"), import_name("get")))
kv_error_t kv_get(kv_store_t from, const char *key, size_t key_length, void *value, size_t value_room, size_t *value_length);

/* Tells which key is at a position, and how long its value is.
 *   position: From 0.
 *   key: result, at most `key_room` bytes; their number is written to `key_length`.
 *   value_bytes: result.
 *   returns: KV_ERROR_OK, or why there are no results. With KV_ERROR_TOO_SMALL, the lengths and counts are those that there must be room for.
 */
__attribute__((import_module("kv"), import_name("nth")))
kv_error_t kv_nth(kv_store_t from, kv_order_t sorted, uint32_t position, char *key, size_t key_room, size_t *key_length, uint32_t *value_bytes);

/* Lists what there is for each key.
 *   sorted: Of the keys.
 *   entries: result, at most `entries_room` elements; their number is written to `entries_count`.
 *   returns: KV_ERROR_OK, or why there are no results. With KV_ERROR_TOO_SMALL, the lengths and counts are those that there must be room for.
 */
__attribute__((import_module("kv"), import_name("entries")))
kv_error_t kv_entries(kv_store_t from, kv_order_t sorted, kv_entry_t *entries, size_t entries_room, size_t *entries_count);

/* Adds up numbers that are stored as decimal text, as far as they are there.
 *   weights: Of the keys, in ascending order.
 */
__attribute__((import_module("kv"), import_name("sum")))
int64_t kv_sum(kv_store_t from, const int64_t *weights, size_t weights_count);

/* Tells what is in a store.
 *   found: result.
 */
__attribute__((import_module("kv"), import_name("usage_of")))
void kv_usage_of(kv_store_t of, kv_usage_t *found);

/* Closes a store. What is in it stays until the job ends. */
__attribute__((import_module("kv"), import_name("close")))
void kv_close(kv_store_t closed);

#undef KV_STATIC_ASSERT
#ifdef __cplusplus
}
#endif

#endif
