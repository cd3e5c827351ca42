import { execFileSync } from "node:child_process";

import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { expect, test, vi } from "vitest";

import { projectFolder } from "../../local/project.ts";
import { tableLines } from "../../src/cli/output.ts";
import { cut, pad, safe, safeJson, widthOf } from "../../src/cli/text.ts";
import { age, bytes, readMoment, readSeconds, readSpan, span } from "../../src/cli/units.ts";

const hostile = "a\u001b[2J\u009b1A\r\n\tb\u202ec\u2028d\u0007\u007f\ud800";

test("text from outside cannot order a terminal about", () => {
  expect(safe(hostile)).toBe("a\\x1b[2J\\x9b1A\\r\\n\\tb\\u202ec\\u2028d\\x07\\x7f\\ud800");
  const json = safeJson(JSON.stringify({ hostile }));
  expect(json).toMatch(/^[\x20-\x7e]*$/);
  expect(JSON.parse(json)).toEqual({ hostile });
  expect(safe("Grüße, 世界 👩‍👩‍👧")).toBe("Grüße, 世界 👩‍👩‍👧");
});

test.for([
  ["abc", 3],
  ["Grüße", 5],
  ["Gru\u0308ße", 5],
  ["世界", 4],
  ["ｆｕｌｌ", 8],
  ["한글", 4],
  ["👩‍👩‍👧", 2],
  ["❤️", 2],
  ["", 0],
] as const)("%s takes %i columns", ([text, columns]) => {
  expect(widthOf(text)).toBe(columns);
  expect(widthOf(pad(text, 10))).toBe(10);
  expect(widthOf(cut(text, 3))).toBeLessThanOrEqual(3);
});

test("a table is as wide as the terminal, and cuts only what may be cut", () => {
  const paint = (text: string) => text;
  const rows = [
    { id: "0123456789", size: "7", note: "世界 世界 世界 世界 世界" },
    { id: "1", size: "1,234", note: hostile },
  ];
  const lines = tableLines(
    rows,
    [
      { title: "ID", of: ({ id }) => id },
      { title: "SIZE", of: ({ size }) => size, align: "right" },
      { title: "NOTE", of: ({ note }) => note, mayBeCut: true },
    ],
    { columns: 40, paint },
  );
  expect(lines).toEqual([
    "ID           SIZE  NOTE",
    "0123456789      7  世界 世界 世界 世界 …",
    "1           1,234  a\\x1b[2J\\x9b1A\\r\\n\\t…",
  ]);
});

test("a name that is wider than the terminal moves its own row, and no other", () => {
  const rows = [{ id: "x".repeat(30) }, { id: "1" }];
  const titles = [
    { title: "ID", of: ({ id }: { id: string }) => id },
    { title: "STATE", of: () => "running" },
  ];
  expect(tableLines(rows, titles, { columns: 20, paint: (text) => text })).toEqual([
    "ID           STATE",
    `${"x".repeat(30)}  running`,
    "1            running",
  ]);
});

test.for([
  [0, "0 B"],
  [1023, "1023 B"],
  [1024, "1.0 KiB"],
  [1_048_575, "1.0 MiB"],
  [1_572_864, "1.5 MiB"],
  [-2048, "-2.0 KiB"],
  [Number(2n ** 63n), "8192.0 PiB"],
] as const)("%i bytes are %s", ([amount, shown]) => {
  expect(bytes(amount)).toBe(shown);
});

test.for([
  [0, "0 s"],
  [0.25, "0.25 ms"],
  [9.97, "10 ms"],
  [12, "12 ms"],
  [999.7, "1.0 s"],
  [1500, "1.5 s"],
  [9970, "10 s"],
  [59_600, "1 min"],
  [93_000, "1 min 33 s"],
  [3_600_000, "1 h"],
  [90_061_000, "1 d 1 h"],
] as const)("%d ms are %s", ([ms, shown]) => {
  expect(span(ms)).toBe(shown);
});

test("times are read as they are written, and nothing else is", () => {
  expect([readSpan("2"), readSpan("500ms"), readSpan("1.5m"), readSpan("7d")]).toEqual([
    2000, 500, 90_000, 604_800_000,
  ]);
  expect([readSeconds("4.1m"), readSeconds("1000ms"), readSeconds("7d")]).toEqual([246, 1, 604_800]);
  for (const wrong of ["400ms", "1.5s"]) expect(() => readSeconds(wrong)).toThrow("whole seconds");
  for (const wrong of ["", "-1s", "1w", "1e9", "s"]) expect(() => readSpan(wrong)).toThrow("A time is a number");
  expect(readMoment("2026-11-28T20:15:00Z").toISOString()).toBe("2026-11-28T20:15:00.000Z");
  const wrong = ["yesterday", "7", "2026-13-01", "2026-02-31", "2026-1-2", "2026-11-28Tmorning"];
  for (const each of wrong) expect(() => readMoment(each)).toThrow("A time is written");
  vi.useFakeTimers({ toFake: ["Date"], now: Date.parse("2026-11-28T20:15:00Z") });
  try {
    expect(readMoment("2h").toISOString()).toBe("2026-11-28T18:15:00.000Z");
    expect(age(undefined)).toBe("never");
    expect(age(timestampFromMs(Date.now() - 3500))).toBe("3 s ago");
  } finally {
    vi.useRealTimers();
  }
});

test("a day begins where whoever asks lives, as the times are that are shown", () => {
  const script =
    'import { readMoment } from "./src/cli/units.ts"; console.log(readMoment("2026-11-28").toISOString());';
  const env = { ...process.env, TZ: "Asia/Tokyo" };
  const told = execFileSync(process.execPath, ["--input-type=module", "--eval", script], { cwd: projectFolder, env });
  expect(told.toString()).toBe("2026-11-27T15:00:00.000Z\n");
});
