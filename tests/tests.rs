//! The integration tests, as one program: what belongs to whole files, real servers and the command line.
//!
//! Nothing here skips itself. A program that a test needs and does not find is a failure that names the command which
//! installs it.

mod it;
