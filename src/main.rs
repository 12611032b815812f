//! The `asof` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    asof::cli::main()
}
