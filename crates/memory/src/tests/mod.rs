//! Tests of memory against models that are simple enough to be right.
mod basics;
mod direct;
mod mappings;
mod model;
