//! Root images: what is imported comes out as it went in, and archives that are broken or hostile are refused.
#![forbid(unsafe_code)]

mod bundles;
mod hostile;
mod layers;
mod make;
mod writer;
