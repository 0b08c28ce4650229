//! CPU a job as bars: the floor, dingcard, and what others were measured to cost.
//!
//! Separate because it is a picture, drawn by hand: a plotting library would be larger than the rest of the bench.

use std::fmt::Write as _;

use crate::figures::Results;

/// What else does the same work, measured apart from this bench: a quorum queue, one call with keep-alive to a static server
/// that answers at once, an acknowledgement, 256 in work.
const ELSEWHERE: &[(&str, f64)] = &[
    ("Node.js, amqplib + undici", 49.0),
    ("Go, amqp091 + net/http", 50.0),
    ("Python, aio-pika + aiohttp + uvloop", 174.0),
    ("Celery", 668.0),
];

const HERE: &[(&str, &str)] = &[
    ("floor: lapin + hyper, no features", "floor-256-cpu"),
    ("dingcard", "worker-256-cpu"),
    ("dingcard with Redis", "redis-256-cpu"),
];

const LINE: usize = 26;
const LEFT: f64 = 250.0;
const WIDTH: f64 = 760.0;

/// The bars, where all of them were measured.
pub(crate) fn bars(results: &Results) -> Option<String> {
    let here = HERE.iter().map(|(name, of)| Some((*name, results.of(of)?, true)));
    let mut bars: Vec<(&str, f64, bool)> = here.collect::<Option<_>>()?;
    bars.extend(ELSEWHERE.iter().map(|(name, cost)| (*name, *cost, false)));
    let longest = bars.iter().map(|bar| bar.1).fold(0.0, f64::max);
    let scale = (WIDTH - LEFT - 80.0) / longest;
    let height = 64 + LINE * bars.len();

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>Microseconds of CPU a job</title>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"15\">Microseconds of CPU a job: take, call, acknowledge; instant server, 256 in work</text>\n"
    );
    for (place, (name, cost, measured)) in bars.iter().enumerate() {
        let y = 40 + LINE * place;
        let (fill, length) = (if *measured { "#1565c0" } else { "#b0bec5" }, cost * scale);
        let (base, end) = (y + 14, LEFT + length + 6.0);
        let _written = writeln!(
            svg,
            "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"18\" fill=\"{fill}\"/>\
             <text x=\"{end:.1}\" y=\"{base}\">{cost:.0}</text>",
            LEFT - 8.0
        );
    }
    let _written = writeln!(
        svg,
        "<text x=\"12\" y=\"{}\" font-size=\"11\" fill=\"#546e7a\">Blue: one run of benches/throughput. Grey: measured elsewhere, on the same kind of work.</text>\n</svg>",
        height - 8
    );
    Some(svg)
}
