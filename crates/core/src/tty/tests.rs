use super::{
    Flow, Input, Pair,
    settings::{Form, character, input, local, output},
};
use crate::signal::Signal;
use alloc::{string::String, vec, vec::Vec};
use shimos_abi::time::Nanos;

/// A pair that is open at both ends.
fn pair() -> Pair {
    let mut pair = Pair::new(0, 0);
    pair.slaves = 1;
    pair
}

/// Types at the terminal; returns the signals.
fn types(pair: &mut Pair, bytes: &[u8]) -> Vec<Signal> {
    let mut signals = Vec::new();
    assert_eq!(pair.tty.receive(bytes, Nanos(1), &mut signals), bytes.len());
    pair.settle();
    signals
}

/// What is to be read.
fn reads(pair: &mut Pair) -> String {
    let bytes = pair.tty.read(10_000, &mut Vec::new());
    pair.settle();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What the master sees.
fn sees(pair: &mut Pair) -> String {
    String::from_utf8_lossy(&pair.read_master(100_000)).into_owned()
}

fn change(pair: &mut Pair, with: impl FnOnce(&mut super::Settings)) {
    let mut settings = pair.tty.settings.clone();
    with(&mut settings);
    pair.tty.set(settings, &mut Vec::new());
    pair.settle();
}

#[test]
fn lines_are_edited_and_echoed() {
    let mut pair = pair();
    types(&mut pair, b"helk\x7flo");
    assert_eq!(pair.tty.input(100), Input::Line);
    types(&mut pair, b"\r");
    assert_eq!(reads(&mut pair), "hello\n");
    assert_eq!(sees(&mut pair), "helk\x08 \x08lo\r\n");
    types(&mut pair, b"one two_3  \x17x\n");
    assert_eq!(reads(&mut pair), "one x\n");
    sees(&mut pair);
    types(&mut pair, b"gone\x15here\n");
    assert_eq!(reads(&mut pair), "here\n");
    assert_eq!(sees(&mut pair), "gone\x08 \x08\x08 \x08\x08 \x08\x08 \x08here\r\n");
    // An end of file gives out what there is; alone it is an empty read.
    types(&mut pair, b"part\x04\x04");
    assert_eq!((reads(&mut pair).as_str(), pair.tty.input(1)), ("part", Input::Ready));
    assert_eq!((reads(&mut pair).as_str(), pair.tty.input(1)), ("", Input::Line));
}

#[test]
fn control_characters_show_and_vanish() {
    let mut pair = pair();
    types(&mut pair, b"a\x16\x03\x7f\x12");
    assert_eq!(sees(&mut pair), "a^\x08^C\x08 \x08\x08 \x08^R\r\na");
    types(&mut pair, b"\n");
    assert_eq!(reads(&mut pair), "a\n");
    sees(&mut pair);
    types(&mut pair, b"ab\t\x7f");
    assert_eq!(sees(&mut pair), "ab\t\x08\x08\x08\x08\x08\x08");
    types(&mut pair, b"\x15");
    change(&mut pair, |s| s.input |= input::IUTF8);
    sees(&mut pair);
    types(&mut pair, "xé\x7f".as_bytes());
    assert_eq!(sees(&mut pair), "xé\x08 \x08");
    types(&mut pair, b"\n");
    assert_eq!(reads(&mut pair), "x\n");
    change(&mut pair, |s| s.local = s.local & !(local::ECHOE | local::ECHOKE) | local::ECHOPRT);
    sees(&mut pair);
    types(&mut pair, b"abc\x7f\x7fd\n");
    assert_eq!((sees(&mut pair).as_str(), reads(&mut pair).as_str()), ("abc\\cb/d\r\n", "ad\n"));
}

#[test]
fn signals_flush_unless_told_otherwise() {
    let mut pair = pair();
    types(&mut pair, b"line\nhalf");
    sees(&mut pair);
    assert_eq!(types(&mut pair, b"\x03"), vec![Signal::INT]);
    assert_eq!((pair.tty.input(1), sees(&mut pair).as_str()), (Input::Line, "^C"));
    change(&mut pair, |s| s.local |= local::NOFLSH);
    assert_eq!(types(&mut pair, b"kept\x1a\x1c\n"), vec![Signal::TSTP, Signal::QUIT]);
    assert_eq!(reads(&mut pair), "kept\n");
    change(&mut pair, |s| s.local &= !local::ISIG);
    assert_eq!(types(&mut pair, b"\x03\n"), vec![]);
    assert_eq!(reads(&mut pair), "\x03\n");
}

#[test]
fn output_is_processed() {
    let mut pair = pair();
    assert_eq!(pair.write(b"a\nb\tc"), 5);
    assert_eq!(sees(&mut pair), "a\r\nb\tc");
    change(&mut pair, |s| s.output |= output::XTABS);
    pair.write(b"\r1234\tx\r\t|");
    assert_eq!(sees(&mut pair), "\r1234    x\r        |");
    change(&mut pair, |s| s.output = output::OPOST | output::OCRNL | output::ONOCR | output::OLCUC);
    pair.write(b"q\r");
    assert_eq!(sees(&mut pair), "Q\n");
    change(&mut pair, |s| s.output = 0);
    pair.write(b"\r\n\t");
    assert_eq!(sees(&mut pair), "\r\n\t");
}

#[test]
fn output_stops_and_goes_on() {
    let mut pair = pair();
    types(&mut pair, b"\x13");
    assert_eq!((pair.write(b"x"), pair.tty.flow), (0, Flow::Stopped));
    types(&mut pair, b"e");
    assert_eq!(sees(&mut pair), "");
    types(&mut pair, b"\x11");
    assert_eq!((sees(&mut pair).as_str(), pair.write(b"x")), ("e", 1));
    sees(&mut pair);
    types(&mut pair, b"\x13");
    change(&mut pair, |s| s.input |= input::IXANY);
    types(&mut pair, b"z");
    assert_eq!((sees(&mut pair).as_str(), pair.tty.flow), ("z", Flow::Going));
    pair.tty.hold();
    types(&mut pair, b"z\x11");
    assert_eq!(pair.tty.flow, Flow::Held);
    pair.tty.release();
    pair.settle();
    assert_eq!((sees(&mut pair).as_str(), pair.tty.flow), ("z", Flow::Going));
    types(&mut pair, b"\x13");
    change(&mut pair, |s| s.input &= !input::IXON);
    assert_eq!(pair.tty.flow, Flow::Going);
}

#[test]
fn bytes_are_waited_for_as_min_and_time_say() {
    let mut pair = pair();
    let raw = |pair: &mut Pair, min, time| {
        change(pair, |s| {
            s.local &= !(local::ICANON | local::ECHO);
            s.characters[character::MIN] = min;
            s.characters[character::TIME] = time;
        });
    };
    raw(&mut pair, 0, 0);
    assert_eq!(pair.tty.input(10), Input::Ready);
    raw(&mut pair, 0, 2);
    assert_eq!(pair.tty.input(10), Input::Within(Nanos::millis(200)));
    raw(&mut pair, 3, 0);
    types(&mut pair, b"ab");
    assert_eq!((pair.tty.input(10), pair.tty.input(2), pair.tty.is_readable()), (Input::Bytes, Input::Ready, false));
    raw(&mut pair, 3, 1);
    assert_eq!((pair.tty.input(10), pair.tty.is_readable()), (Input::Another(Nanos::millis(100)), true));
    types(&mut pair, b"c");
    assert_eq!((pair.tty.input(10), reads(&mut pair).as_str()), (Input::Ready, "abc"));
    assert_eq!(pair.tty.input(10), Input::Bytes);
    // What was typed as bytes can be read as a line, and the other way round.
    types(&mut pair, b"xyz");
    change(&mut pair, |s| s.local |= local::ICANON);
    assert_eq!((pair.tty.input(10), reads(&mut pair).as_str()), (Input::Ready, "xyz"));
    types(&mut pair, b"open");
    assert_eq!(pair.tty.input(10), Input::Line);
    raw(&mut pair, 1, 0);
    assert_eq!(reads(&mut pair), "open");
}

#[test]
fn nothing_grows_without_bound() {
    let mut pair = pair();
    change(&mut pair, |s| s.local &= !local::ECHO);
    // A line is cut, and its end still comes.
    types(&mut pair, &[b'x'; 5000]);
    types(&mut pair, b"\n");
    assert_eq!(reads(&mut pair).len(), 4096);
    let mut signals = Vec::new();
    for bytes in [&b"line of text\n"[..], b"\x04", b"x"] {
        if bytes == b"x" {
            change(&mut pair, |s| s.local &= !local::ICANON);
        }
        let mut taken = 0;
        for _ in 0..20_000 {
            taken += pair.tty.receive(bytes, Nanos(1), &mut signals);
        }
        assert!(taken < 20_000, "{taken}");
        pair.tty.flush_input();
    }
    change(&mut pair, |s| s.local |= local::ECHO | local::ICANON);
    for _ in 0..20_000 {
        pair.tty.receive(b"\x13abc\t\n", Nanos(1), &mut signals);
        pair.tty.read(100, &mut signals);
        pair.settle();
        pair.write(b"\t\n");
    }
    assert!(pair.tty.echo.0.len() <= 4096 + 8 && pair.output.0.len() <= 16384 + 4096 + 8);
}

#[test]
fn a_read_may_take_a_part_of_a_line() {
    let mut pair = pair();
    types(&mut pair, b"abcdef\nnext\n");
    let mut signals = Vec::new();
    assert_eq!(pair.tty.read(3, &mut signals), b"abc");
    assert_eq!(pair.tty.read(4, &mut signals), b"def\n");
    assert_eq!(pair.tty.read(100, &mut signals), b"next\n");
    // A buffer that the line fills exactly takes the end of file with it.
    types(&mut pair, b"abc\x04");
    assert_eq!(pair.tty.read(3, &mut signals), b"abc");
    assert_eq!(pair.tty.input(1), Input::Line);
}

#[test]
fn packets_tell_of_what_happens() {
    let mut pair = pair();
    pair.packet = Some(0);
    pair.write(b"data");
    assert_eq!(pair.read_master(100), b"\0data");
    types(&mut pair, b"\x13");
    assert_eq!(pair.read_master(100), [super::notice::STOP]);
    types(&mut pair, b"\x11");
    assert_eq!(pair.read_master(100), [super::notice::START]);
    types(&mut pair, b"\x03");
    assert_eq!(pair.read_master(100), [super::notice::FLUSH_READ | super::notice::FLUSH_WRITE]);
    assert_eq!(pair.read_master(100), b"\0^C");
    change(&mut pair, |s| s.input &= !input::IXON);
    assert_eq!(pair.read_master(100), [super::notice::NO_STOP]);
}

#[test]
fn structures_keep_what_they_cannot_say() {
    let mut settings = super::Settings::new();
    settings.input |= 1 << 20;
    for form in [Form::Termios, Form::Termios2] {
        let bytes = settings.to_bytes(form);
        assert_eq!((bytes.len(), settings.changed(form, &bytes)), (form.size(), settings.clone()));
    }
    let bytes = settings.to_bytes(Form::Termio);
    assert_eq!((bytes.len(), settings.changed(Form::Termio, &bytes)), (18, settings.clone()));
    // Seven bits and parity cannot be had; speeds follow their bits.
    let mut wanted = settings.clone();
    wanted.control = 0o15 | 0o40 | 0o400;
    let got = settings.changed(Form::Termios, &wanted.to_bytes(Form::Termios));
    assert_eq!((got.control, got.output_speed, got.input_speed), (0o15 | 0o60 | 0o200, 9600, 9600));
    wanted.control = 0o10000;
    wanted.output_speed = 12345;
    let got = settings.changed(Form::Termios2, &wanted.to_bytes(Form::Termios2));
    assert_eq!((got.output_speed, got.input_speed), (12345, 12345));
}
