//! Parse, run the verb, exit with its code.

use std::process::ExitCode;

/// A worker makes and drops some hundred small things a job; this one takes a seventh off what a job costs with glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    dingcard::cli::main()
}
