//! SQLite: shells that write to one database, each acknowledged transaction in it exactly once.
use super::{
    Client, Connection, Dial, Load, Shared,
    lines::{listen, put},
    shell,
};
use anyhow::{Context, Result, bail};
use shimos_random::Random;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The shell, with a journal of one kind.
pub struct Sqlite {
    name: &'static str,
    journal: &'static str,
}

/// Both kinds.
pub static LOADS: [Sqlite; 2] =
    [Sqlite { name: "sqlite-rollback", journal: "delete" }, Sqlite { name: "sqlite-wal", journal: "wal" }];

impl Load for Sqlite {
    fn name(&self) -> &'static str {
        self.name
    }
    fn command(&self) -> Vec<String> {
        let made = "create table t(who int, n int, primary key(who, n)); create table c(who int primary key, n int);";
        let before = format!("sqlite3 /tmp/t.db 'pragma journal_mode={}; {made}'\n", self.journal);
        let settings = put("init.sql", ".timeout 80000\n.bail on\n");
        shell(&format!("{settings}{before}{}", listen("/usr/bin/sqlite3 -batch -init /tmp/init.sql /tmp/t.db")))
    }
    fn port(&self) -> u16 {
        7000
    }
    fn clients(&self) -> usize {
        3
    }
    fn patience(&self) -> Duration {
        Duration::from_secs(90)
    }
    fn prepare(&self, dial: Dial) -> Result<Arc<dyn Shared>> {
        let mut connection = dial.connect()?;
        if ask(&mut connection, "select 6 * 7;")? != "42" {
            bail!("the database does not answer");
        }
        Ok(Arc::new(Base { dial, told: Arc::default() }))
    }
}

fn ask(connection: &mut Connection, words: &str) -> Result<String> {
    connection.send(format!("{words}\n").as_bytes())?;
    connection.line()
}

struct Base {
    dial: Dial,
    /// Transactions that were acknowledged to each client.
    told: Arc<Mutex<Vec<(usize, u64)>>>,
}

impl Shared for Base {
    fn client(&self, number: usize, seed: u64) -> Result<Box<dyn Client>> {
        let random = Random::new(seed);
        Ok(Box::new(Writer { dial: self.dial, connection: None, number, random, count: 0, told: self.told.clone() }))
    }

    fn finish(&self) -> Result<()> {
        let mut connection = self.dial.connect()?;
        for (who, count) in self.told.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let found = ask(
                &mut connection,
                &format!(
                    "select count(*), ifnull(sum(n), 0), (select ifnull(sum(n), 0) from c where who = {who}) from t where who = {who};"
                ),
            )?;
            let wanted = format!("{count}|{}|{count}", count * (count + 1) / 2);
            if found != wanted {
                bail!("client {who}: the database has {found} (rows, sum, counter) in place of {wanted}");
            }
        }
        let whole = ask(&mut connection, "pragma integrity_check;")?;
        if whole != "ok" {
            bail!("the database is damaged: {whole}");
        }
        Ok(())
    }
}

struct Writer {
    dial: Dial,
    connection: Option<Connection>,
    number: usize,
    random: Random,
    count: u64,
    told: Arc<Mutex<Vec<(usize, u64)>>>,
}

impl Client for Writer {
    fn step(&mut self) -> Result<()> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.dial.connect()?,
        };
        let (who, next) = (self.number, self.count + 1);
        let answer = ask(
            &mut connection,
            &format!(
                "begin immediate; insert into t values({who}, {next}); \
                 insert into c values({who}, 1) on conflict(who) do update set n = n + 1; commit; \
                 select n from c where who = {who};"
            ),
        )?;
        let found: u64 = answer.parse().with_context(|| format!("the answer '{answer}'"))?;
        if found != next {
            bail!("{} transactions were acknowledged before this one; now the counter is {found}", self.count);
        }
        self.count = next;
        if !self.random.once_in(50) {
            self.connection = Some(connection);
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
    use std::{io::Write, net::TcpListener, thread};

    #[test]
    fn a_transaction_that_is_lost_or_done_twice_is_found() {
        for (answer, right) in [("1\n", true), ("0\n", false), ("2\n", false), ("", false)] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let dial = Dial { port: listener.local_addr().expect("bound").port() };
            thread::spawn(move || listener.accept().expect("accepts").0.write_all(answer.as_bytes()).expect("sends"));
            let random = Random::new(1);
            let mut writer = Writer { dial, connection: None, number: 0, random, count: 0, told: Arc::default() };
            assert_eq!(writer.step().is_ok(), right, "{answer}");
        }
    }
}
