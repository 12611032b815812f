//! CityHash64 in its version 1.0, by which CatBoost knows categories.
//!
//! Source: Google's CityHash 1.0 (`city.cc`), by its structure; the constants are its own.

const K0: u64 = 0xc3a5_c85c_97cb_3127;
const K1: u64 = 0xb492_b66f_be98_f273;
const K2: u64 = 0x9ae1_6a3b_2f90_404f;
const K3: u64 = 0xc949_d7c7_509e_6557;

pub fn city_hash64(bytes: &[u8]) -> u64 {
    match bytes.len() {
        0..=16 => up_to_16(bytes),
        17..=32 => up_to_32(bytes),
        33..=64 => up_to_64(bytes),
        _ => longer(bytes),
    }
}

/// Eight bytes, from the start or, with a negative `at`, from the end.
fn word(bytes: &[u8], at: isize) -> u64 {
    let start = if at < 0 { bytes.len() - at.unsigned_abs() } else { at.unsigned_abs() };
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[start..start + 8]);
    u64::from_le_bytes(word)
}

fn half(bytes: &[u8], start: usize) -> u64 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[start..start + 4]);
    u64::from(u32::from_le_bytes(word))
}

fn mixed(value: u64) -> u64 {
    value ^ (value >> 47)
}

fn combined(low: u64, high: u64) -> u64 {
    const MULTIPLIER: u64 = 0x9ddf_ea08_eb38_2d69;
    let a = mixed((low ^ high).wrapping_mul(MULTIPLIER));
    mixed((high ^ a).wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER)
}

fn up_to_16(bytes: &[u8]) -> u64 {
    let length = bytes.len();
    if length > 8 {
        let (a, b) = (word(bytes, 0), word(bytes, -8));
        let turned = b.wrapping_add(length as u64).rotate_right(length as u32);
        return combined(a, turned) ^ b;
    }
    if length >= 4 {
        return combined(length as u64 + (half(bytes, 0) << 3), half(bytes, length - 4));
    }
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return K2 };
    let y = u64::from(*first) + (u64::from(bytes[length >> 1]) << 8);
    let z = length as u64 + (u64::from(*last) << 2);
    mixed(y.wrapping_mul(K2) ^ z.wrapping_mul(K3)).wrapping_mul(K2)
}

fn up_to_32(bytes: &[u8]) -> u64 {
    let a = word(bytes, 0).wrapping_mul(K1);
    let b = word(bytes, 8);
    let c = word(bytes, -8).wrapping_mul(K2);
    let d = word(bytes, -16).wrapping_mul(K0);
    combined(
        a.wrapping_sub(b).rotate_right(43).wrapping_add(c.rotate_right(30)).wrapping_add(d),
        a.wrapping_add((b ^ K3).rotate_right(20)).wrapping_sub(c).wrapping_add(bytes.len() as u64),
    )
}

/// Two words of state out of the four that begin with `first`, and a sum that goes in at the start.
fn folded(first: u64, words: [u64; 3]) -> (u64, u64) {
    let [second, third, last] = words;
    let b = first.wrapping_add(last).rotate_right(52);
    let mut c = first.rotate_right(37);
    let mut a = first.wrapping_add(second);
    c = c.wrapping_add(a.rotate_right(7));
    a = a.wrapping_add(third);
    (a.wrapping_add(last), b.wrapping_add(a.rotate_right(31)).wrapping_add(c))
}

fn up_to_64(bytes: &[u8]) -> u64 {
    let start = word(bytes, 0).wrapping_add((bytes.len() as u64).wrapping_add(word(bytes, -16)).wrapping_mul(K0));
    let (vf, vs) = folded(start, [word(bytes, 8), word(bytes, 16), word(bytes, 24)]);
    let start = word(bytes, 16).wrapping_add(word(bytes, -32));
    let (wf, ws) = folded(start, [word(bytes, -24), word(bytes, -16), word(bytes, -8)]);
    let r = mixed(vf.wrapping_add(ws).wrapping_mul(K2).wrapping_add(wf.wrapping_add(vs).wrapping_mul(K0)));
    mixed(r.wrapping_mul(K0).wrapping_add(vs)).wrapping_mul(K2)
}

fn weak(bytes: &[u8], a: u64, b: u64) -> (u64, u64) {
    let (w, x, y, z) = (word(bytes, 0), word(bytes, 8), word(bytes, 16), word(bytes, 24));
    let a = a.wrapping_add(w);
    let b = b.wrapping_add(a).wrapping_add(z).rotate_right(21);
    let all = a.wrapping_add(x).wrapping_add(y);
    (all.wrapping_add(z), b.wrapping_add(all.rotate_right(44)).wrapping_add(a))
}

fn longer(bytes: &[u8]) -> u64 {
    let length = bytes.len() as u64;
    let mut x = word(bytes, 0);
    let mut y = word(bytes, -16) ^ K1;
    let mut z = word(bytes, -56) ^ K0;
    let mut v = weak(&bytes[bytes.len() - 64..], length, y);
    let mut w = weak(&bytes[bytes.len() - 32..], length.wrapping_mul(K1), K0);
    z = z.wrapping_add(mixed(v.1).wrapping_mul(K1));
    x = z.wrapping_add(x).rotate_right(39).wrapping_mul(K1);
    y = y.rotate_right(33).wrapping_mul(K1);
    for chunk in bytes[..(bytes.len() - 1) & !63].chunks_exact(64) {
        x = x.wrapping_add(y).wrapping_add(v.0).wrapping_add(word(chunk, 16)).rotate_right(37).wrapping_mul(K1);
        y = y.wrapping_add(v.1).wrapping_add(word(chunk, 48)).rotate_right(42).wrapping_mul(K1);
        x ^= w.1;
        y ^= v.0;
        z = (z ^ w.0).rotate_right(33);
        v = weak(chunk, v.1.wrapping_mul(K1), x.wrapping_add(w.0));
        w = weak(&chunk[32..], z.wrapping_add(w.1), y);
        std::mem::swap(&mut z, &mut x);
    }
    combined(
        combined(v.0, w.0).wrapping_add(mixed(y).wrapping_mul(K1)).wrapping_add(z),
        combined(v.1, w.1).wrapping_add(x),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As CatBoost 1.2.10 stores the hashes of categories.
    #[test]
    fn hashes_are_those_of_catboost() {
        for (text, hash) in
            [("9", -1_829_579_975), ("19", -1_757_863_955), ("15", -1_558_977_718), ("t", -1_567_998_935)]
        {
            assert_eq!(city_hash64(text.as_bytes()) as u32 as i32, hash, "{text}");
        }
    }
}
