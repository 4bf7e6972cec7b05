//! The character device through which the kernel is asked.
use crate::framing;
use rustix::io::Errno;
use shimos_abi::control::{MAX_MESSAGE, Request, Response};
use shimos_policy::machine;
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    time::Duration,
};

/// Where the device is.
pub const PATH: &str = "/dev/shimos";

/// How often a request is made that one takeover after another cuts off.
const TRIES: usize = 8;
/// How long a program that is on its way is waited for before it is asked again.
const MOMENT: Duration = Duration::from_millis(50);

/// The open device.
pub struct Device(File);

impl Device {
    /// Opens it.
    pub fn open() -> io::Result<Device> {
        OpenOptions::new().read(true).write(true).open(PATH).map(Device)
    }

    /// Passes one message on as it is, length and all, and returns the answer with its length. When a takeover has cut
    /// a request off, it is made again if that does no harm.
    pub fn exchange(&mut self, message: &[u8]) -> io::Result<Vec<u8>> {
        let item = message.get(framing::PREFIX..).unwrap_or_default();
        let harmless = minicbor::decode::<Request>(item).is_ok_and(|request| request.is_repeatable());
        for _ in 1..TRIES {
            match self.exchange_once(message) {
                Err(error) if harmless && error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {}
                result => return result,
            }
        }
        self.exchange_once(message)
    }

    fn exchange_once(&mut self, message: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(message)?;
        let mut answer = vec![0; framing::PREFIX + MAX_MESSAGE];
        let mut have = 0;
        loop {
            let Some(room) = answer.get_mut(have..) else {
                return Err(invalid("an answer that does not end"));
            };
            let read = self.0.read(room)?;
            if read == 0 {
                return Err(invalid("the device answered with nothing"));
            }
            have += read;
            if let Some(length) = framing::complete(answer.get(..have).unwrap_or_default()).map_err(invalid)? {
                answer.truncate(length);
                return Ok(answer);
            }
        }
    }

    /// Asks and understands the answer.
    pub fn ask(&mut self, request: &Request) -> io::Result<Response> {
        let item = minicbor::to_vec(request).map_err(invalid)?;
        let answer = self.exchange(&framing::frame(&item).map_err(invalid)?)?;
        minicbor::decode(answer.get(framing::PREFIX..).unwrap_or_default()).map_err(invalid)
    }
}

/// What tools of policies ask.
impl machine::Ask for Device {
    fn ask(&mut self, request: &Request) -> Result<Response, String> {
        for _ in 1..TRIES {
            match Device::ask(self, request) {
                Ok(Response::Again(_)) => std::thread::sleep(MOMENT),
                Ok(Response::Failed(why)) => return Err(why),
                Ok(answer) => return Ok(answer),
                Err(error) => return Err(format!("{PATH}: {error}")),
            }
        }
        Err("a kernel that should answer does not: try again".to_string())
    }
}

fn invalid(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}
