//! Damaged inputs for decoders: seeds, changed at random, must be read or refused and nothing else.
//!
//! Seeds stand in `tests/data/fuzz/TARGET/`, beside those that a test makes itself; so does what once failed. A run
//! takes a fixed number of inputs, the same every time. `ASOF_FUZZ_SECONDS` makes each target run so long, on inputs
//! that differ from run to run; `ASOF_FUZZ_SAVE` writes the seeds of tests to the folder.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use xxhash_rust::xxh3::xxh3_64;

/// Inputs of a short run.
const INPUTS: usize = 3_000;
const CHANGES_MAX: u64 = 6;
/// Longer than any decoder needs to go wrong.
const INPUT_BYTES_MAX: usize = 1 << 16;

/// Runs a decoder on changed seeds.
///
/// # Panics
/// If the decoder does; the input is left beside the seeds.
pub fn fuzz(target: &str, seeds: Vec<Vec<u8>>, decode: impl Fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/fuzz").join(target);
    if std::env::var_os("ASOF_FUZZ_SAVE").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        for seed in &seeds {
            std::fs::write(folder.join(format!("seed-{:016x}", xxh3_64(seed))), seed).unwrap();
        }
    }
    let mut all = seeds;
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    all.extend(paths.iter().map(|path| std::fs::read(path).unwrap()));
    let check = |input: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| decode(input))).is_err() {
            let path = folder.join(format!("failed-{:016x}", xxh3_64(input)));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, input).unwrap();
            panic!("{target} panics on {}", path.display());
        }
    };
    all.iter().for_each(|seed| check(seed));
    let length = std::env::var("ASOF_FUZZ_SECONDS").ok().map(|seconds| Duration::from_secs(seconds.parse().unwrap()));
    let seed = match length {
        #[expect(clippy::disallowed_methods, reason = "a long run differs from the one before; it prints its seed")]
        Some(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64,
        None => xxh3_64(target.as_bytes()),
    };
    let mut random = Random(seed | 1);
    let started = Instant::now();
    let mut inputs = 0;
    while length.map_or(inputs < INPUTS, |length| started.elapsed() < length) {
        inputs += 1;
        check(&changed(&all, &mut random));
    }
    println!("{target}: {inputs} inputs from {} seeds, random seed {seed}", all.len());
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound.max(1)
    }
}

/// Lengths and signs that decoders stumble over.
const NUMBERS: [i64; 10] = [0, 1, -1, 127, 128, 255, i32::MAX as i64, i32::MIN as i64, i64::MAX, i64::MIN];

fn changed(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..1 + random.next() % CHANGES_MAX {
        let at = random.below(bytes.len() + 1);
        let end = (at + 1 + random.below(16)).min(bytes.len());
        match random.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at.min(end)..end)),
            4 => {
                let piece = bytes[at.min(end)..end].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => {
                let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
                let width = 1 << random.below(4);
                let until = (at + width).min(bytes.len());
                bytes.splice(at.min(until)..until, number[..width].iter().copied());
            }
            6 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => bytes.insert(at, random.next() as u8),
        }
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}
