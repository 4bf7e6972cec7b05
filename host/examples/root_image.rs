//! Makes the root image and says where it is.
use anyhow::Result;

fn main() -> Result<()> {
    println!("{}", shimos::image::root(&shimos::paths::Paths::find()?)?.display());
    Ok(())
}
