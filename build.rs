//! Compiles the wire contract with a Rust compiler of .proto files, so that no `protoc` has to be installed.

use std::path::PathBuf;

use protox::prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = [
        "proto/asof/v1/feature_store.proto",
        "proto/asof/v1/admin.proto",
        "proto/asof/v1/prediction.proto",
        "proto/inference/inference.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out_dir.join("asof_descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
