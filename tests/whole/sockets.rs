//! Connections outlive the kernel of their program.
use anyhow::{Context, Result, ensure};
use shimos::{
    download::{self, Download},
    machine::Options,
};
use shimos_abi::control::{Fault, Target};
use shimos_tests::{client::Client, clock::SOON, group::Group, programs, rig::Rig, suite::Suite};

/// The kernel that dies first.
const VICTIM: u16 = 2;

pub fn run(suite: &mut Suite) {
    let mut group = Group::new(suite, Options::default());
    group.case("sockets::a_download_over_one_connection", download);
    group.case("sockets::half_closed", half_closed);
    group.case("sockets::connected_and_not_accepted", not_accepted);
    group.case("sockets::a_conversation", conversation);
    group.case("sockets::between_programs", between_programs);
}

fn download(rig: &mut Rig) -> Result<()> {
    let web = rig.start_protected(programs::web("web", VICTIM))?;
    let port = rig.machine.publish(0, web.program, 80)?;
    download::wait_for_server(port, SOON)?;
    let download = Download::start(port);
    for fault in [Fault::NullPointer, Fault::Panic, Fault::InfiniteLoop, Fault::IrqDeadlock] {
        rig.settle(web.program)?;
        let before = download.received();
        rig.kill_under(web.program, fault)?;
        shimos_tests::clock::until(SOON, "more of the file", || {
            Ok((download.received() > before + (1 << 20)).then_some(()))
        })?;
    }
    let outcome = download.finish();
    ensure!(outcome.sha256_ok && outcome.connections == 1 && outcome.resets == 0, "{outcome:?}");
    Ok(())
}

/// The client has closed its direction; the program's goes on.
fn half_closed(rig: &mut Rig) -> Result<()> {
    let reply = "cat; echo end; n=0; while [ $n -lt 60 ]; do n=$((n+1)); echo $n; usleep 50000; done";
    let program = rig.start_protected(programs::command(
        "half",
        VICTIM,
        &["/bin/busybox", "nc", "-l", "-p", "7000", "-e", "/bin/busybox", "sh", "-c", reply],
    ))?;
    let port = rig.machine.publish(0, program.program, 7000)?;
    let (mut client, first) = Client::greet(port, "five\n")?;
    ensure!(first == "five", "it said '{first}'");
    client.close_sending()?;
    ensure!(client.line()?.as_deref() == Some("end"), "it did not see that nothing more comes");
    ensure!(client.line()?.as_deref() == Some("1"), "it did not begin");
    rig.settle(program.program)?;
    rig.kill_under(program.program, Fault::Panic)?;
    let rest = client.rest()?;
    let expected: String = (2..=60).map(|n| format!("{n}\n")).collect();
    ensure!(rest == expected, "it sent {} bytes: {:?}", rest.len(), rest.lines().last());
    Ok(())
}

/// Connections that wait in the queue of a listening socket at the death are served afterwards.
fn not_accepted(rig: &mut Rig) -> Result<()> {
    let web = rig.start_protected(programs::web("queue", VICTIM))?;
    let port = rig.machine.publish(0, web.program, 80)?;
    download::wait_for_server(port, SOON)?;
    // It stands still: the kernel completes the connections, nobody accepts them.
    rig.control.kill(Target::Pid(web.pid), 19)?;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(port)?;
        client.send("GET /index.html HTTP/1.0\r\n\r\n")?;
        clients.push(client);
    }
    rig.settle(web.program)?;
    let home = rig.home(web.program)?;
    rig.kill_kernel(home, Fault::InfiniteLoop)?;
    rig.settle(web.program)?;
    rig.control.kill(Target::Pid(web.pid), 18)?;
    for (number, client) in clients.into_iter().enumerate() {
        let answer = client.rest().with_context(|| format!("client {number}"))?;
        ensure!(answer.contains(" 200 ") && answer.contains("Shimos"), "client {number} got {answer:?}");
    }
    Ok(())
}

/// Question and answer over one connection, with deaths between them.
fn conversation(rig: &mut Rig) -> Result<()> {
    let talk = "n=0; while read x; do n=$((n+1)); echo $n $x; done; echo bye";
    let program = rig.start_protected(programs::command(
        "talk",
        VICTIM,
        &["/bin/busybox", "nc", "-l", "-p", "7000", "-e", "/bin/busybox", "sh", "-c", talk],
    ))?;
    let port = rig.machine.publish(0, program.program, 7000)?;
    let (mut client, _) = Client::greet(port, "hello\n")?;
    let faults = [Fault::Panic, Fault::IrqDeadlock, Fault::NullPointer];
    for (round, fault) in (0..).zip(faults) {
        client.send(&format!("a{round}\n"))?;
        let got = client.line()?;
        ensure!(got == Some(format!("{} a{round}", 2 * round + 2)), "it answered {got:?}");
        rig.settle(program.program)?;
        // One question is under way when the kernel dies.
        client.send(&format!("b{round}\n"))?;
        rig.kill_under(program.program, fault)?;
        let got = client.line()?;
        ensure!(got == Some(format!("{} b{round}", 2 * round + 3)), "it answered {got:?}");
    }
    client.close_sending()?;
    ensure!(client.rest()? == "bye\n", "it did not see the end");
    Ok(())
}

/// A connection between two programs inside, each of which loses its kernel.
fn between_programs(rig: &mut Rig) -> Result<()> {
    let source = "n=0; while [ $n -lt 400 ]; do n=$((n+1)); echo $n; usleep 10000; done";
    let server = rig.start_protected(programs::command(
        "server",
        VICTIM,
        &["/bin/busybox", "nc", "-l", "-p", "7000", "-e", "/bin/busybox", "sh", "-c", source],
    ))?;
    let [a, b, c, d] = shimos_abi::control::address_of(server.program);
    let address = format!("{a}.{b}.{c}.{d}");
    let text = format!("until /bin/busybox nc {address} 7000; do usleep 10000; done");
    let client = rig.start_protected(programs::script("client", 1, &text))?;
    rig.wait_more("client", 5)?;
    rig.settle(server.program)?;
    rig.kill_under(server.program, Fault::Panic)?;
    rig.wait_more("client", 5)?;
    rig.settle(client.program)?;
    rig.kill_under(client.program, Fault::NullPointer)?;
    rig.wait_line("client", "400")?;
    let mut lines = rig.lines("client");
    // Until the server listens.
    lines.retain(|line| !line.contains("refused"));
    let right = lines.len() == 400 && (1_usize..).zip(&lines).all(|(number, line)| *line == number.to_string());
    ensure!(right, "{} lines came, the last {:?}", lines.len(), lines.last());
    Ok(())
}
