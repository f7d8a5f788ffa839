//! A new database.
