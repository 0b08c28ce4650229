//! Parse, run the verb, exit with its code.

use std::process::ExitCode;

fn main() -> ExitCode {
    dingcard::cli::main()
}
