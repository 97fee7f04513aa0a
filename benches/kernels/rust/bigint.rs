//! Big integers: 64-bit limbs with carries, products, a division by a small number, decimal digits.
mod common;

/// `a * b`, by the schoolbook.
fn multiply(a: &[u64], b: &[u64]) -> Vec<u64> {
    let mut out = vec![0u64; a.len() + b.len()];
    for (i, &x) in a.iter().enumerate() {
        let mut carry = 0u128;
        for (j, &y) in b.iter().enumerate() {
            let t = u128::from(x) * u128::from(y) + u128::from(out[i + j]) + carry;
            out[i + j] = t as u64;
            carry = t >> 64;
        }
        out[i + b.len()] = carry as u64;
    }
    while out.last() == Some(&0) {
        out.pop();
    }
    out
}

fn add(a: &mut Vec<u64>, b: &[u64]) {
    a.resize(a.len().max(b.len()) + 1, 0);
    let mut carry = false;
    for (i, x) in a.iter_mut().enumerate() {
        let (t, c) = x.overflowing_add(b.get(i).copied().unwrap_or(0));
        let (t, d) = t.overflowing_add(u64::from(carry));
        (*x, carry) = (t, c || d);
    }
    while a.last() == Some(&0) {
        a.pop();
    }
}

/// Divides by nine decimal digits, limb halves at a time; the remainder.
fn divide(a: &mut Vec<u64>, by: u32) -> u32 {
    let mut rest = 0u64;
    for limb in a.iter_mut().rev() {
        let high = rest << 32 | *limb >> 32;
        let low = (high % u64::from(by)) << 32 | *limb & 0xffff_ffff;
        rest = low % u64::from(by);
        *limb = (high / u64::from(by)) << 32 | low / u64::from(by);
    }
    while a.last() == Some(&0) {
        a.pop();
    }
    rest as u32
}

fn main() {
    let mut sum = 0;
    let (mut a, mut b) = (vec![0u64], vec![1u64]);
    for _ in 0..50_000 {
        add(&mut a, &b);
        std::mem::swap(&mut a, &mut b);
    }
    let mut power = vec![3u64];
    for _ in 0..14 {
        power = multiply(&power, &power);
    }
    for i in 0..160 {
        let product = multiply(&power, &b);
        sum = common::mix(sum, product[product.len() / 2]);
        power[i] ^= sum;
    }
    while !b.is_empty() {
        sum = common::mix(sum, divide(&mut b, 1_000_000_000).into());
    }
    common::report(sum);
}
