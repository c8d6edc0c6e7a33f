// node check.mjs CHROMIUM [--shots FOLDER] PAGE... : opens pages at three widths in light and dark, prints every fault
// found as a line of JSON. Exit code 0 whatever was found.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const WIDTHS = [360, 768, 1280];
const SCHEMES = ["light", "dark"];
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const [executablePath, ...given] = process.argv.slice(2);
const shots = given[0] === "--shots" ? given.splice(0, 2)[1] : null;
const browser = await chromium.launch({ executablePath, args: FLAGS });
for (const file of given.map(path => resolve(path)))
  for (const colorScheme of SCHEMES) {
    const context = await browser.newContext({ colorScheme, reducedMotion: "reduce", bypassCSP: true });
    const page = await context.newPage();
    const tell = (width, fault) => console.log(JSON.stringify(`${basename(file)}, ${colorScheme}, ${width} wide: ${fault}`));
    page.on("pageerror", error => tell("any", `script: ${error.message}`));
    page.on("request", request => request.url().startsWith("file:") || tell("any", `loads ${request.url()}`));
    await page.setViewportSize({ width: WIDTHS[0], height: 800 });
    await page.goto(pathToFileURL(file).href);
    if (shots)
      for (const width of WIDTHS) {
        await page.setViewportSize({ width, height: 800 });
        const name = `${basename(file, ".html")}-${colorScheme}-${width}.png`;
        await page.screenshot({ path: join(shots, name), fullPage: true });
      }
    await page.evaluate(AXE);
    for (const opened of [false, true]) {
      await page.evaluate(open => document.querySelectorAll("details").forEach(fold => { fold.open = open; }), opened);
      for (const width of WIDTHS) {
        await page.setViewportSize({ width, height: 800 });
        const reach = await page.evaluate(() => document.scrollingElement.scrollWidth - innerWidth);
        if (reach > 0) tell(width, `scrolls ${reach} pixels sideways`);
      }
    }
    // Where a gradient lies behind text axe leaves its contrast undecided; these shade nothing but the edges of tables.
    await page.addStyleTag({ content: ".scroll { background: none !important }" });
    for (const width of [WIDTHS[0], WIDTHS.at(-1)]) {
      await page.setViewportSize({ width, height: 800 });
      const { violations } = await page.evaluate(() => axe.run({ resultTypes: ["violations"] }));
      for (const { id, nodes } of violations)
        tell(width, `${id}: ${nodes.length} times, such as ${nodes[0].html.slice(0, 200)} (${nodes[0].failureSummary})`);
    }
    for (const fault of await keyboard(page)) tell(WIDTHS.at(-1), fault);
    await context.close();
  }
await browser.close();

// What the keyboard alone cannot do: from the top of the page, skip, filter layers, read marks.
async function keyboard(page) {
  const faults = [];
  await page.reload();
  await page.keyboard.press("Tab");
  if (!(await focused(page, ".skip"))) faults.push("the first Tab does not lead to the skip link");
  if (await page.locator("tr[data-layer]").count()) {
    await page.evaluate(() => document.querySelectorAll("details.run").forEach(fold => { fold.open = true; }));
    if (await reached(page, ".filter input")) faults.push(...(await filtering(page)));
    else faults.push("Tab does not lead to the filter");
    await page.reload();
  }
  if (!(await reached(page, ".mark"))) return [...faults, "Tab does not lead to a mark"];
  const first = await told(page);
  await page.keyboard.press("ArrowRight");
  const second = await told(page);
  if (!first || !second || first === second) faults.push(`marks tell "${first}", then "${second}"`);
  await page.keyboard.press("Escape");
  if (await told(page)) faults.push("Escape does not take away what a mark tells");
  return faults;
}

async function filtering(page) {
  const counted = () => page.evaluate(() => {
    const part = document.getElementById(document.activeElement.closest(".filter").dataset.filters);
    const rows = [...part.querySelectorAll("tr[data-layer]")];
    return [rows.length, rows.filter(row => row.checkVisibility()).length, rows.at(-1).dataset.layer];
  });
  const [all, , last] = await counted();
  await page.keyboard.type(last);
  const [, found] = await counted();
  const said = await page.locator(".filter:focus-within output").textContent();
  await page.keyboard.type(" nothing-is-called-so");
  const [, none] = await counted();
  if (found < 1 || found >= all || none || !said.startsWith(`${found} of ${all} `))
    return [`the filter shows ${found} of ${all} layers with ${last}, ${none} with nonsense, and says "${said}"`];
  return [];
}

async function reached(page, selector) {
  for (let presses = 0; presses < 300; presses += 1) {
    if (await focused(page, selector)) return true;
    await page.keyboard.press("Tab");
  }
  return false;
}

function focused(page, selector) {
  return page.evaluate(wanted => document.activeElement.matches(wanted), selector);
}

function told(page) {
  return page.evaluate(() => {
    const tip = document.querySelector(".tip");
    return tip.hidden ? "" : tip.textContent;
  });
}
