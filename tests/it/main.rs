//! The integration tests: one binary, against a real broker and the built `dingcard`.
//!
//! Apart from the unit tests because everything here is seen from outside: processes, AMQP and HTTP. It refuses to
//! reach into the library.

#![allow(missing_docs)]

mod broker;
mod http;
mod process;
