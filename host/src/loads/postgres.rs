//! PostgreSQL: transactions over its own protocol, each acknowledged one in the tables exactly once.
use super::{Client, Connection, Dial, Load, Shared};
use anyhow::{Context, Result, bail};
use shimos_random::Random;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Version 3.0 of the protocol.
const VERSION: u32 = 3 << 16;
/// Longest message that is believed.
const LONGEST: usize = 1 << 20;

/// The server.
pub struct Postgres;

impl Load for Postgres {
    fn name(&self) -> &'static str {
        "postgresql"
    }
    fn command(&self) -> Vec<String> {
        let script = "bin=$(ls -d /usr/lib/postgresql/*/bin)
            mkdir -p /tmp/pg /run/postgresql; chown postgres /tmp/pg /run/postgresql
            su postgres -c \"$bin/initdb -A trust -D /tmp/pg/data\" >/tmp/pg/log 2>&1
            echo 'host all all 0.0.0.0/0 trust' >>/tmp/pg/data/pg_hba.conf
            exec su postgres -c \"exec $bin/postgres -D /tmp/pg/data -c listen_addresses='*' -c max_connections=40\"";
        ["/bin/bash", "-ec", script].map(str::to_string).to_vec()
    }
    fn port(&self) -> u16 {
        5432
    }
    fn patience(&self) -> Duration {
        Duration::from_secs(240)
    }
    fn prepare(&self, dial: Dial) -> Result<Arc<dyn Shared>> {
        let mut session = Session::open(dial)?;
        session.ask("create table if not exists t(who int, n int, primary key(who, n))")?;
        session.ask("create table if not exists c(who int primary key, n int)")?;
        Ok(Arc::new(Base { dial, told: Arc::default() }))
    }
}

/// One session.
struct Session(Connection);

impl Session {
    fn open(dial: Dial) -> Result<Session> {
        let mut session = Session(dial.connect()?);
        let words = b"user\0postgres\0database\0postgres\0\0";
        let mut message = (words.len() as u32 + 8).to_be_bytes().to_vec();
        message.extend_from_slice(&VERSION.to_be_bytes());
        message.extend_from_slice(words);
        session.0.send(&message)?;
        session.answer()?;
        Ok(session)
    }

    /// Sends commands; the fields of all rows that came, when the server is ready again.
    fn ask(&mut self, words: &str) -> Result<Vec<String>> {
        let mut message = vec![b'Q'];
        message.extend_from_slice(&(words.len() as u32 + 5).to_be_bytes());
        message.extend_from_slice(words.as_bytes());
        message.push(0);
        self.0.send(&message)?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        loop {
            let head = self.0.exact(5)?;
            let (kind, length) = head.split_first().context("no message")?;
            let length = length.try_into().map_or(0, u32::from_be_bytes) as usize;
            if !(4..=LONGEST).contains(&length) {
                bail!("a message of {length} bytes");
            }
            let body = self.0.exact(length - 4)?;
            match kind {
                b'D' => found.extend(fields(&body).context("a row that is not understood")?),
                b'E' => bail!("the server says: {}", String::from_utf8_lossy(&body).replace('\0', " ")),
                b'R' if body != [0; 4] => bail!("the server wants a password"),
                b'Z' => return Ok(found),
                _ => {}
            }
        }
    }
}

/// The fields of a row.
fn fields(row: &[u8]) -> Option<Vec<String>> {
    let count = u16::from_be_bytes(row.get(..2)?.try_into().ok()?);
    let mut rest = row.get(2..)?;
    let mut fields = Vec::new();
    for _ in 0..count {
        let length = i32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
        let length = usize::try_from(length).unwrap_or(0);
        fields.push(String::from_utf8_lossy(rest.get(4..4 + length)?).into_owned());
        rest = rest.get(4 + length..)?;
    }
    Some(fields)
}

struct Base {
    dial: Dial,
    /// Transactions that were acknowledged to each client.
    told: Arc<Mutex<Vec<(usize, u64)>>>,
}

impl Shared for Base {
    fn client(&self, number: usize, seed: u64) -> Result<Box<dyn Client>> {
        let random = Random::new(seed);
        Ok(Box::new(Writer { dial: self.dial, session: None, number, random, count: 0, told: self.told.clone() }))
    }

    fn finish(&self) -> Result<()> {
        let mut session = Session::open(self.dial)?;
        for (who, count) in self.told.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let found = session.ask(&format!(
                "select count(*), coalesce(sum(n), 0), (select coalesce(sum(n), 0) from c where who = {who}) from t where who = {who}"
            ))?;
            let wanted = [*count, count * (count + 1) / 2, *count].map(|number| number.to_string());
            if found != wanted {
                bail!("client {who}: the tables have {found:?} (rows, sum, counter) in place of {wanted:?}");
            }
        }
        Ok(())
    }
}

struct Writer {
    dial: Dial,
    session: Option<Session>,
    number: usize,
    random: Random,
    count: u64,
    told: Arc<Mutex<Vec<(usize, u64)>>>,
}

impl Client for Writer {
    fn step(&mut self) -> Result<()> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => Session::open(self.dial)?,
        };
        let (who, next) = (self.number, self.count + 1);
        let found = session.ask(&format!(
            "begin; insert into t values({who}, {next}); \
             insert into c values({who}, 1) on conflict(who) do update set n = c.n + 1 returning n; commit"
        ))?;
        if found != [next.to_string()] {
            bail!("{} transactions were acknowledged before this one; now the counter is {found:?}", self.count);
        }
        self.count = next;
        if self.random.once_in(100) {
            // It says that it goes.
            session.0.send(&[b'X', 0, 0, 0, 4])?;
        } else {
            self.session = Some(session);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push((self.number, self.count));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_cut_ones_refused() {
        let row = [&[0, 3, 0, 0, 0, 2][..], b"17", &[255; 4], &[0, 0, 0, 1], b"x"].concat();
        assert_eq!(fields(&row).expect("whole"), ["17", "", "x"]);
        for end in 0..row.len() {
            assert_eq!(fields(&row[..end]), None, "{end}");
        }
    }
}
