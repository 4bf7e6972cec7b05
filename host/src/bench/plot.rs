//! Charts as SVG: lines through points, both axes logarithmic.
use std::fmt::Write;

/// Size of one chart and of the room around it, in pixels.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Colours that can be told apart, also by the colour-blind (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// One chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// What is along.
    pub x: String,
    /// What is up.
    pub y: String,
    /// Each line with its name.
    pub series: Vec<(String, Vec<(f64, f64)>)>,
    /// A value that must not be exceeded.
    pub goal: Option<f64>,
}

/// A logarithmic axis from one power of ten to another.
#[derive(Clone, Copy)]
struct Axis {
    low: i32,
    high: i32,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Axis {
        let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| *value > 0.0 && value.is_finite()) {
            low = low.min(value);
            high = high.max(value);
        }
        if high == 0.0 {
            (low, high) = (1.0, 10.0);
        }
        let (low, high) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        Axis { low, high: high.max(low + 1), from, to }
    }

    /// Where a value lies. What is 0 or less lies at the lower end.
    fn at(self, value: f64) -> f64 {
        let place = if value > 0.0 { value.log10() } else { f64::from(self.low) };
        let share = (place - f64::from(self.low)) / f64::from(self.high - self.low);
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn marks(self) -> impl Iterator<Item = (f64, String)> {
        (self.low..=self.high).map(move |power| {
            let value = 10_f64.powi(power);
            (self.at(value), format!("{value}"))
        })
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// All charts below each other in one picture.
pub fn svg(charts: &[Chart]) -> String {
    let height = HEIGHT * charts.len() as f64;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (place, chart) in charts.iter().enumerate() {
        let _ = writeln!(text, "<g transform=\"translate(0,{})\">", HEIGHT * place as f64);
        draw(&mut text, chart);
        text += "</g>\n";
    }
    text + "</svg>\n"
}

fn draw(text: &mut String, chart: &Chart) {
    let points = || chart.series.iter().flat_map(|(_, points)| points);
    let x = Axis::over(points().map(|(x, _)| *x), LEFT, WIDTH - RIGHT);
    let y = Axis::over(points().map(|(_, y)| *y).chain(chart.goal), HEIGHT - BOTTOM, TOP);
    let word = |text: &mut String, x: f64, y: f64, anchor: &str, what: &str| {
        let _ = writeln!(text, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(what));
    };
    let line = |text: &mut String, from: (f64, f64), to: (f64, f64), style: &str| {
        let _ = writeln!(
            text,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" {style}/>",
            from.0, from.1, to.0, to.1
        );
    };
    word(text, (x.from + x.to) / 2.0, TOP - 18.0, "middle", &chart.title);
    word(text, (x.from + x.to) / 2.0, HEIGHT - 12.0, "middle", &chart.x);
    let _ = writeln!(
        text,
        "<text transform=\"translate(16,{:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        (y.from + y.to) / 2.0,
        escape(&chart.y)
    );
    for (at, mark) in x.marks() {
        line(text, (at, y.from), (at, y.to), "stroke=\"#ddd\"");
        word(text, at, y.from + 16.0, "middle", &mark);
    }
    for (at, mark) in y.marks() {
        line(text, (x.from, at), (x.to, at), "stroke=\"#ddd\"");
        word(text, x.from - 6.0, at + 4.0, "end", &mark);
    }
    if let Some(goal) = chart.goal {
        let at = y.at(goal);
        line(text, (x.from, at), (x.to, at), "stroke=\"red\" stroke-dasharray=\"6 4\"");
        word(text, x.to + 8.0, at + 4.0, "start", "goal");
    }
    for ((place, (name, points)), colour) in chart.series.iter().enumerate().zip(COLOURS.iter().cycle()) {
        let places: Vec<String> = points.iter().map(|(px, py)| format!("{:.1},{:.1}", x.at(*px), y.at(*py))).collect();
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            places.join(" ")
        );
        for (px, py) in points {
            let _ =
                writeln!(text, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", x.at(*px), y.at(*py));
        }
        let at = TOP + 18.0 * place as f64 + 8.0;
        line(text, (x.to + 12.0, at), (x.to + 32.0, at), &format!("stroke=\"{colour}\" stroke-width=\"2\""));
        word(text, x.to + 38.0, at + 4.0, "start", name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_what_they_show() {
        let axis = Axis::over([0.02, 5.0, 700.0, 0.0].into_iter(), 0.0, 100.0);
        assert_eq!((axis.low, axis.high), (-2, 3));
        assert_eq!((axis.at(0.01), axis.at(1000.0), axis.at(0.0)), (0.0, 100.0, 0.0));
        assert!(axis.at(5.0) > axis.at(0.02) && axis.at(5.0) < axis.at(700.0));
        assert_eq!(axis.marks().map(|(_, mark)| mark).collect::<Vec<_>>(), ["0.01", "0.1", "1", "10", "100", "1000"]);
        // Nothing to show, and one value alone, are axes as well.
        assert!(Axis::over(std::iter::empty(), 0.0, 1.0).high > 0);
        let one = Axis::over(std::iter::once(10.0), 0.0, 1.0);
        assert!(one.high > one.low);
    }

    #[test]
    fn names_cannot_break_the_picture() {
        let chart = Chart {
            title: "a < b & c".to_string(),
            x: "x".to_string(),
            y: "y".to_string(),
            series: vec![("<s>".to_string(), vec![(1.0, 2.0), (10.0, 0.0)])],
            goal: Some(1.0),
        };
        let picture = svg(&[chart.clone(), chart]);
        assert!(picture.contains("a &lt; b &amp; c") && picture.contains("&lt;s&gt;") && !picture.contains("<s>"));
        assert_eq!(picture.matches("<polyline").count(), 2);
        assert!(picture.ends_with("</svg>\n"));
    }
}
