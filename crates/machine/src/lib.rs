//! TODO
#![no_std]

pub mod device;
