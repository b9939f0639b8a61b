//! Compiles proto/ to Rust without a protoc binary, and keeps the descriptors for reflection.

use std::error::Error;

/// Messages whose keys and values are slices of what was received. In answers they are owned: prost copies a slice's
/// handle, with an allocation, to write it.
const REQUESTS: [&str; 7] = [
    "GetRequest",
    "PutRequest",
    "DeleteRequest",
    "ExistsRequest",
    "BatchReadRequest",
    "WriteOperation",
    "ScanRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_WIRE").is_none() {
        return Ok(());
    }
    use prost::Message as _;
    let files = [
        "kvstore.proto",
        "ringcore/v1/kv.proto",
        "ringcore/v1/cluster.proto",
        "ringcore/v1/admin.proto",
        "ringcore/peer/v1/peer.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    let mut bare = descriptors.clone();
    for file in &mut bare.file {
        file.source_code_info = None; // comments: reflection does not serve them
    }
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), bare.encode_to_vec())?;
    let mut builder = tonic_prost_build::configure();
    for message in REQUESTS {
        builder = builder.bytes(format!(".ringcore.v1.{message}"));
    }
    // Between nodes both ways: records are passed on as they came.
    builder = builder.bytes(".ringcore.peer.v1");
    builder
        .build_transport(false)
        .build_server(false) // the server's router needs no Send futures: it is written by hand
        .build_client(std::env::var_os("CARGO_FEATURE_CLIENT").is_some())
        .compile_fds(descriptors)?;
    Ok(())
}
