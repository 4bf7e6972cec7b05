//! Tests of images: against a model, with a death at every store, with damage, across reboots.
mod base;
mod contents;
mod damage;
mod death;
mod earlier;
mod model;
mod program;
