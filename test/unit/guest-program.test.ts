import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const GUEST = fileURLToPath(new URL('../guest/', import.meta.url));
const BUILT_WITH = readFileSync(join(GUEST, 'built-with.txt'), 'utf8');

/** First lines of `--version` of the compiler and linker here, in the form of built-with.txt. */
function toolsHere(): string {
  return ['gcc', 'ld']
    .map(
      (tool) => spawnSync(tool, ['--version'], { encoding: 'utf8' }).stdout?.split('\n')[0] ?? '',
    )
    .map((line) => `${line}\n`)
    .join('');
}

/** Compiler major version and linker version: what the bytes depend on. */
function versions(tools: string): string[] {
  const [compiler = '', linker = ''] = tools.split('\n');
  const major = / (\d+)\.\d+\.\d+$/.exec(compiler)?.[1] ?? 'none';
  return [major, / (\d+\.\d+)/.exec(linker.replace(/\(.*\)/, ''))?.[1] ?? 'none'];
}

const sameTools = versions(toolsHere()).join() === versions(BUILT_WITH).join();

const whyNot = ': skipped, other tools than in test/guest/built-with.txt';

test.skipIf(!sameTools).each(['writer', 'boot-sector.bin'])(
  `the committed %s is what its source gives${sameTools ? '' : whyNot}`,
  (program) => {
    const folder = mkdtempSync(join(tmpdir(), 'drover-guest-'));
    try {
      execFileSync('sh', [join(GUEST, 'build.sh'), folder], { stdio: 'pipe' });
      const rebuilt = readFileSync(join(folder, program));
      expect(rebuilt.equals(readFileSync(join(GUEST, program)))).toBe(true);
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
);

test("the Linux guest's program is under 20 KiB", () => {
  expect(statSync(join(GUEST, 'writer')).size).toBeLessThan(20 * 1024);
});

test('the boot sector is one sector with its mark at the end', () => {
  const sector = readFileSync(join(GUEST, 'boot-sector.bin'));
  expect(sector.length).toBe(512);
  expect(sector.readUInt16LE(510)).toBe(0xaa55);
});
