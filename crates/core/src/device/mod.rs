//! Virtual devices (paper 2.5): what programs use on every kernel, and what the owner of the device does for all.
pub mod claim;
pub mod console;
pub mod disk;
pub mod network;
pub mod shimos;
