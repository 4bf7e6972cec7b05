//! TCP to a server on the host, which does what the first byte says: `e` sends every byte back, `s` takes what comes
//! and answers one byte for each MiB, `r` sends a MiB for each byte that it gets.
use crate::timing::{Measured, repeat};
use std::{
    io::{Read, Write},
    net::TcpStream,
};

const MIB: usize = 1 << 20;

fn connect(host: &str, port: u16, how: u8) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect((host, port))?;
    stream.set_nodelay(true)?;
    stream.write_all(&[how])?;
    Ok(stream)
}

/// Measures one of the rows `tcp_round`, `tcp_send`, `tcp_receive`; of the last two an operation is a MiB.
pub fn measure(row: &str, host: &str, port: u16) -> Measured {
    match row {
        "tcp_round" => {
            let mut stream = connect(host, port, b'e')?;
            repeat(|count| {
                let mut byte = [1];
                for _ in 0..count {
                    stream.write_all(&byte)?;
                    stream.read_exact(&mut byte)?;
                }
                Ok(())
            })
        }
        "tcp_send" => {
            let mut stream = connect(host, port, b's')?;
            let data = vec![3; 64 * 1024];
            repeat(|count| {
                for _ in 0..count {
                    for _ in 0..MIB / data.len() {
                        stream.write_all(&data)?;
                    }
                    stream.read_exact(&mut [0])?;
                }
                Ok(())
            })
        }
        "tcp_receive" => {
            let mut stream = connect(host, port, b'r')?;
            let mut data = vec![0; 64 * 1024];
            repeat(|count| {
                for _ in 0..count {
                    stream.write_all(&[1])?;
                    let mut left = MIB;
                    while left > 0 {
                        let most = left.min(data.len());
                        let got = stream.read(&mut data[..most])?;
                        if got == 0 {
                            return Err("the server has gone".into());
                        }
                        left -= got;
                    }
                }
                Ok(())
            })
        }
        _ => Err(format!("there is no row {row} over the network").into()),
    }
}
