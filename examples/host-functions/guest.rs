//! A guest of the interface kv, in Rust. guest.c does the same.

mod kv;

use kv::{Content, EntriesFailure, Entry, GetFailure, KvError, Order, PutFlags, Store};

fn put(store: Store, key: &str, value: &str, how: PutFlags) {
    match kv::put(store, key, value.as_bytes(), how) {
        Ok(()) => println!("put {key}: ok"),
        Err(error) => println!("put {key}: {error}"),
    }
}

fn get(store: Store, key: &str, room: usize) {
    match kv::get(store, key, &mut [0; 16][..room]) {
        Ok(value) => println!("get {key}: {}", String::from_utf8_lossy(value)),
        Err(GetFailure { error: error @ KvError::TooSmall, value_length }) => {
            println!("get {key}: {error}, needs {value_length} bytes");
        }
        Err(failure) => println!("get {key}: {failure}"),
    }
}

fn list(store: Store, sorted: Order, room: usize) {
    match kv::entries(store, sorted, &mut [Entry::default(); 4][..room]) {
        Ok(entries) => {
            println!("entries: ok, {}", entries.len());
            for Entry { value_bytes, read_only, content } in entries {
                let content = if *content == Content::Number { "a number" } else { "something else" };
                println!("  {value_bytes} bytes, {content}{}", if *read_only { ", read-only" } else { "" });
            }
        }
        Err(EntriesFailure { error: error @ KvError::TooSmall, entries_count }) => {
            println!("entries: {error}, needs room for {entries_count}");
        }
        Err(failure) => println!("entries: {failure}"),
    }
}

fn main() {
    let store = kv::open("fruit", 3);
    list(store, Order::Ascending, 0);
    put(store, "cherry", "35", PutFlags::READ_ONLY);
    put(store, "apple", "red", PutFlags::empty());
    put(store, "banana", "21", PutFlags::CREATE_NEW);
    put(store, "banana", "22", PutFlags::CREATE_NEW);
    put(store, "cherry", "36", PutFlags::empty());
    put(store, "date", "1", PutFlags::empty());
    get(store, "banana", 1);
    get(store, "banana", 16);
    get(store, "date", 16);

    for position in 0.. {
        match kv::nth(store, Order::Descending, position, &mut [0; 16]) {
            Ok(found) => println!("{position}: {}, {} bytes", found.key, found.value_bytes),
            Err(failure) => {
                println!("{position}: {failure}");
                break;
            }
        }
    }

    list(store, Order::Ascending, 2);
    list(store, Order::Ascending, 3);
    list(store, Order::Descending, 4);

    println!("sum: {}", kv::sum(store, &[1, -10, 1_000_000_000_000]));
    let usage = kv::usage_of(store);
    println!("{} keys, {} bytes{}", usage.keys, usage.bytes_used, if usage.is_full { ", full" } else { "" });
    kv::close(store);
}
