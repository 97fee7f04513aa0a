//! x
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let b = std::fs::read(&a[1]).unwrap();
    let b = if b.starts_with(b"\0asm") { b } else { compiler::parse_text(&b).unwrap() };
    let o = compiler::Options::default();
    let t = std::time::Instant::now();
    if a[2] == "asm" || a[2] == "clif" {
        let l = if a[2] == "asm" { compiler::Listing::Assembly } else { compiler::Listing::Clif };
        println!("{}", compiler::list(&b, &o, l).unwrap());
        return;
    }
    match compiler::compile(&b, &o) {
        Ok(x) => {
            eprintln!("{} bytes {:?}", x.len(), t.elapsed());
            std::fs::write(&a[2], x).unwrap()
        }
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(1)
        }
    }
}
