//! Names the condition under which the io_uring engine exists; it stands in `Cargo.toml` as well.

fn main() {
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    let known = ["x86_64", "aarch64", "riscv64", "loongarch64", "powerpc64"];
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(uring)");
    if var("CARGO_CFG_TARGET_OS") == "linux"
        && var("CARGO_CFG_TARGET_POINTER_WIDTH") == "64"
        && known.contains(&var("CARGO_CFG_TARGET_ARCH").as_str())
    {
        println!("cargo::rustc-cfg=uring");
    }
}
