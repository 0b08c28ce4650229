// What tests/browser looks at: jobs that are published to a real broker, and their cards on the inbox page.
//
// It waits for what is to be seen, never for a time. Each step says what it saw; the first that fails ends the program.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";

const { chromium } = createRequire(path.resolve("target/clients/package.json"))("playwright-core");
// What begins with DINGCARD_ is a setting to dingcard.
const { DINGCARD_BIN, ...own } = process.env;
const dingcard = path.resolve(DINGCARD_BIN), node = path.resolve("deploy/rabbitmq/node");
const shots = path.resolve("target/browser"), folder = mkdtempSync(path.join(tmpdir(), "dingcard-browser-"));
mkdirSync(shots, { recursive: true });

const CONFIG = `
[apps.default]
app_key = "dingsandbox"
app_secret = "sandbox-secret"
robot_code = "dingsandbox"
template = "overtime"
rate_per_second = 0

[templates.overtime]
id = "overtime.schema"

[retry]
immediate = 0
initial = "1s"

[sandbox]
rate_per_second = 0
names = { "15012341231" = "Zhang San", "cidTeam7==" = "Team 7" }

[sandbox.templates."overtime.schema"]
title = "Overtime: \${pv} views"
body = """
**\${users}** people looked, \${comments} wrote something.

- likes: \`\${likes}\`
- [the whole report](https://example.com/report)
"""
fields = ["pv", "users"]
`;

let passed = 0;
const step = async (what, work) => {
  try { await work(); } catch (error) { console.error(`FAILED: ${what}`); throw error; }
  passed += 1;
  console.log(`ok: ${what}`);
};

// A program, and the value of `key=` in the first line of its log that holds `text`.
const running = [];
function start(args, text, key, env) {
  const child = spawn(dingcard, [...args, "--config", path.join(folder, "dingcard.toml")], { cwd: folder, env: { ...own, ...env }, stdio: ["ignore", "ignore", "pipe"] });
  running.push(child);
  return new Promise((resolve, reject) => {
    const log = [];
    child.on("exit", code => reject(new Error(`dingcard ${args[0]} ended with ${code}:\n${log.join("\n")}`)));
    createInterface({ input: child.stderr }).on("line", line => { log.push(line); if (line.includes(text)) resolve(new RegExp(`${key}="?([^" ]*)`).exec(line)?.[1]); });
  });
}

async function main() {
  writeFileSync(path.join(folder, "dingcard.toml"), CONFIG);
  const broker = execFileSync(node, ["start", path.join(folder, "node"), "--owner", String(process.pid)], { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] }).trim();
  const inbox = await start(["sandbox", "--listen", "127.0.0.1:0"], "listening", "inbox");
  const env = { DINGCARD_AMQP__URL: broker, DINGCARD_DINGTALK__API_URL: inbox.replace(/\/$/, ""), DINGCARD_DINGTALK__OAPI_URL: inbox.replace(/\/$/, "") };
  const publish = (...args) => execFileSync(dingcard, ["publish", "--config", path.join(folder, "dingcard.toml"), ...args], { cwd: folder, env: { ...own, ...env }, encoding: "utf8" }).trim();
  const data = pv => ["--param", `pv=${pv}`, "--param", "users=1000", "--param", "comments=500", "--param", "likes=200"];
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
  running.push({ kill: () => browser.close() });

  // A page, and what goes wrong on it or leaves this machine.
  const complaints = [];
  async function open(width, colorScheme, locale = "en-US") {
    const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme, locale, timezoneId: "Asia/Shanghai" });
    page.on("pageerror", error => complaints.push(error.message));
    page.on("console", message => { if (message.type() === "error") complaints.push(message.text()); });
    page.on("request", request => { if (!request.url().startsWith(inbox) && !request.url().startsWith("data:")) complaints.push(`asked for ${request.url()}`); });
    await page.goto(inbox);
    await page.locator("#live.on").waitFor();
    return page;
  }
  const card = (page, text) => page.locator("article", { hasText: text });

  const page = await open(1440, "light");
  await step("an empty page says the next command", async () => {
    await page.getByText("dingcard publish --mobile 15012341231").waitFor();
    await page.screenshot({ path: path.join(shots, "empty.png") });
  });
  await start(["worker", "--listen", "127.0.0.1:0"], "consuming", "queue", env);
  let loads = 0;
  page.on("load", () => { loads += 1; });

  await step("a published job's card appears without a reload, as its template says", async () => {
    publish("--id", "overtime-1", "--mobile", "15012341231", ...data(2000));
    const one = card(page, "Overtime: 2000 views");
    await one.waitFor();
    assert.equal(await one.locator("strong", { hasText: "1000" }).count(), 1);
    await one.getByText("as seen by Zhang San").waitFor();
    assert.equal(loads, 0);
  });
  await step("its update changes it, and what changed is shown", async () => {
    publish("--update-of", "overtime-1", "--mobile", "15012341231", ...data(2400));
    const one = card(page, "Overtime: 2400 views");
    await one.waitFor();
    await one.locator("del", { hasText: "2000" }).waitFor();
    await one.locator("ins", { hasText: "2400" }).waitFor();
    assert.equal(await page.locator("article").count(), 1);
    assert.equal(loads, 0);
  });
  await step("a card for a group looks like one", async () => {
    publish("--id", "overtime-2", "--conversation", "cidTeam7==", ...data(77));
    await card(page, "Overtime: 77 views").locator(".chat.group", { hasText: "Team 7" }).waitFor();
  });
  await step("request and answer are there", async () => {
    const one = card(page, "Overtime: 77 views");
    await one.getByText("Request and answer").click();
    await one.locator("pre", { hasText: "openSpaceId" }).first().waitFor();
    await one.locator("pre", { hasText: "deliverResults" }).first().waitFor();
    await one.getByText("Request and answer").click();
  });
  await step("search finds it by recipient, name and parameter, by key alone", async () => {
    for (const text of ["u15012341231", "zhang", "2400"]) {
      await page.locator("#list").press("/");
      await page.keyboard.type(text);
      await page.locator("#sums", { hasText: "1found" }).waitFor();
      await card(page, "Overtime: 2400 views").waitFor();
      await page.keyboard.press("Escape");
      await page.locator("article").nth(1).waitFor();
    }
  });
  await step("filters narrow the list", async () => {
    await page.locator("#recipient").fill("cidTeam7==");
    await page.locator("#sums", { hasText: "1found" }).waitFor();
    await page.locator("#reset").click();
    await page.locator("#outcome").selectOption("undelivered");
    await page.getByText("Nothing matches").waitFor();
    await page.locator("#outcome").selectOption("");
    await page.locator("article").nth(1).waitFor();
  });
  await step("a fault switched on from the page hits the next send, and the fleet copes", async () => {
    await page.locator("#rehearse > summary").click();
    await page.locator("#f-endpoint").selectOption("createAndDeliver");
    await page.locator("#f-often").selectOption("next");
    await page.getByRole("switch", { name: "5xx" }).press("Enter");
    await page.locator("[role=switch][aria-checked=true]", { hasText: "5xx" }).waitFor();
    publish("--id", "overtime-3", "--mobile", "15012341233", ...data(3000));
    await page.locator("#view-refused").click();
    const refused = card(page, "system.busy");
    await refused.getByText("ordered by a fault").waitFor();
    await refused.getByText("HTTP 500").waitFor();
    await page.screenshot({ path: path.join(shots, "refused.png"), fullPage: true });
    await page.locator("#view-cards").click();
    await card(page, "Overtime: 3000 views").waitFor();
    await page.locator("#in-force", { hasText: "all is well" }).waitFor();
    await page.locator("#rehearse > summary").click();
  });
  await step("the page is Chinese at a click, and stays so", async () => {
    await page.locator("#lang").click();
    await page.getByText("已展示给").first().waitFor();
    assert.equal(await page.locator("html").getAttribute("lang"), "zh-CN");
    await page.screenshot({ path: path.join(shots, "chinese.png"), fullPage: true });
    await page.locator("#lang").click();
  });
  await step("it has room from 360 px to 1440 px, in light and dark, with names for all controls", async () => {
    for (const width of [360, 1440]) for (const scheme of ["light", "dark"]) {
      const other = await open(width, scheme);
      await card(other, "Overtime: 3000 views").waitFor();
      assert.equal(await other.evaluate(() => document.documentElement.scrollWidth - innerWidth), 0, `${width} ${scheme}`);
      const nameless = await other.evaluate(() => [...document.querySelectorAll("button, select, input, summary")]
        .filter(control => control.checkVisibility() && !control.textContent.trim() && !control.labels?.[0]?.textContent.trim() && !control.getAttribute("aria-label")).map(control => control.outerHTML));
      assert.deepEqual(nameless, []);
      const ground = await other.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number));
      assert.equal(ground[0] < 128, scheme === "dark", `${scheme}: ${ground}`);
      await other.screenshot({ path: path.join(shots, `${width}-${scheme}.png`), fullPage: true });
      await other.close();
    }
  });
  await step("nothing on the page went wrong, and nothing was loaded from elsewhere", async () => assert.deepEqual(complaints, []));
}

try {
  await main();
  console.log(`${passed} passed, 0 failed`);
} catch (error) {
  console.error(error);
  console.log(`${passed} passed, 1 failed`);
  process.exitCode = 1;
} finally {
  for (const child of running.reverse()) await child.kill();
  execFileSync(node, ["remove", path.join(folder, "node")], { stdio: "ignore" });
  rmSync(folder, { recursive: true, force: true });
}
