//! `report` of training runs: one page with curves, marks, facts and answers; it loads nothing, and works in a browser.

use std::path::Path;

use crate::eval::{chromium, must_load_nothing};
use crate::journey::{Run, program, succeed};

/// Ten steps with evaluations, disturbed once.
fn run() -> Run {
    let run = Run::synthetic();
    let eval = format!("data.eval={}", run.path("data/held-out.parquet"));
    run.must_launch(2, &[&eval, "data.eval_every=4", "train.max_steps=6"]);
    // What the supervisor writes when a worker is killed.
    let events = run.path("run/events.jsonl");
    let mut text = std::fs::read_to_string(&events).unwrap();
    text.push_str(
        "{\"time\":1.0,\"attempt\":0,\"event\":\"lost\",\"rank\":1,\"step\":3,\"text\":\"rank 1 <was> killed\"}\n",
    );
    text.push_str("{\"time\":1.0,\"attempt\":0,\"event\":\"resta"); // Torn by the end of the machine.
    storage::publish_file(events.as_ref(), text.as_bytes()).unwrap();
    run
}

fn report(folders: &[&str], out: &Path, more: &[&str]) -> String {
    let out_text = out.display().to_string();
    succeed(&[&["report"], folders, &["--out", &out_text], more].concat());
    let html = std::fs::read_to_string(out).unwrap();
    must_load_nothing(&html);
    html
}

#[test]
fn a_run_is_one_page_of_curves_marks_facts_and_answers() {
    let run = run();
    let (folder, out) = (run.path("run"), run.path("report.html"));
    let html = report(&[&folder], out.as_ref(), &[]);
    for told in [
        "Not a medical device",
        "<b>loss</b>",
        "held-out</span>",
        "<b>token accuracy</b>",
        "prompts</span>",
        "<b>gradient norm, before clipping</b>",
        "<b>learning rate</b>",
        "<b>rows a second</b>",
        "<b>share of time waited for rows</b>",
        "<title>step 3: lost: rank 1 &lt;was&gt; killed</title>",
        "6 (0.60 epochs)",
        "checkpoint-6",
        "base, blake3",
        "computed with",
        "2 CPU workers",
        "config.toml, as run",
        "learning_rate = 0.004",
        "the model said",
        "--with-pages",
    ] {
        assert!(html.contains(told), "{told:?} is not in the page");
    }
    assert!(
        !html.contains("<img") && !html.contains("What is the heart rate"),
        "no row's page or text unless asked for"
    );
    let html = report(&[&folder], out.as_ref(), &["--with-pages"]);
    assert_eq!(html.matches("<img alt=\"page of row synthetic-").count(), 4);
    assert!(html.contains("the row says"), "{html}");
}

#[test]
fn several_runs_lie_over_each_other_beside_their_evals() {
    let (one, two) = (run(), run());
    let (second, out) = (one.path("second"), one.path("report.html"));
    std::os::unix::fs::symlink(two.path("run"), &second).unwrap();
    let html = report(&[&one.path("run"), &second], out.as_ref(), &[]);
    for told in ["run, training</span>", "second, training</span>", "second, held-out</span>", "second: lost: rank 1"] {
        assert!(html.contains(told), "{told:?} is not in the page");
    }
    let (first, second) = (one.path("run"), two.path("run"));
    let html = report(&[&first, &second], out.as_ref(), &[]);
    assert!([first, second].iter().all(|folder| html.contains(&format!("{folder}, training</span>"))), "of one name");
    let refused = program(&["report", &one.path("data"), "--out", &out]);
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn the_page_works_in_a_browser() {
    let run = run();
    let page = run.path("report.html");
    let html = report(&[&run.path("run")], page.as_ref(), &[]);
    // A copy that uses itself: opens what can be opened, moves over every chart, follows every link, and says what it saw.
    let nonce = html.split("nonce-").nth(1).unwrap().split('\'').next().unwrap();
    let user = format!(
        "<script nonce=\"{nonce}\">\n\
         for (const summary of document.querySelectorAll('summary')) summary.click();\n\
         for (const link of document.querySelectorAll('nav a')) link.click();\n\
         const said = [...document.querySelectorAll('figure.chart')].map((chart) => {{\n\
           const svg = chart.querySelector('svg'), box = svg.getBoundingClientRect();\n\
           svg.dispatchEvent(new PointerEvent('pointermove', {{ clientX: box.right - 1, clientY: box.top + 5 }}));\n\
           const text = chart.querySelector('output').textContent;\n\
           svg.dispatchEvent(new PointerEvent('pointerleave'));\n\
           return text + (chart.querySelector('output').textContent === '' ? '' : ' NOT CLEARED');\n\
         }});\n\
         const open = document.querySelectorAll('details[open]').length;\n\
         const wide = document.documentElement.scrollWidth > innerWidth ? 'TOO WIDE' : 'fits';\n\
         document.title = `${{said.length}} charts | ${{said.join(' | ')}} | ${{open}} open | ${{wide}}`;\n\
         </script>\n</body>"
    );
    let copy = run.path("used.html");
    storage::publish_file(copy.as_ref(), html.replace("</body>", &user).as_bytes()).unwrap();
    let Some(output) = chromium(copy.as_ref()) else { return };
    let (dom, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!told.contains("CONSOLE"), "{told}");
    let title = dom.split("<title>").nth(1).unwrap().split("</title>").next().unwrap();
    let last = trainer::journal::read(run.path("run/journal.jsonl").as_ref()).unwrap().pop().unwrap();
    let loss: f64 = title.split("step 6: training ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    assert!((loss - last.loss).abs() < 0.02 * last.loss, "{loss} is read off for {}: {title}", last.loss);
    for seen in ["6 charts | step 6: training ", "2 open | fits"] {
        assert!(title.contains(seen), "{title}");
    }
    assert!(!title.contains("NOT CLEARED"), "{title}");
}
