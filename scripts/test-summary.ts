/**
 * Prints "N passed, N failed" for a report that vitest wrote with its json reporter, skipped tests
 * before it on a line of their own. A file that failed without a failed test of its own (it could
 * not even be loaded, or a hook failed) counts as one failure, and so does a run that failed
 * without any failed file (an error outside of every test). Exits non-zero when something failed or
 * nothing passed.
 *
 * Use: test-summary.ts REPORT EXIT_STATUS_OF_VITEST
 */
import { readFileSync } from 'node:fs';
import { z } from 'zod';

const Report = z.object({
  testResults: z.array(
    z.object({
      name: z.string(),
      status: z.string(),
      assertionResults: z.array(z.object({ fullName: z.string(), status: z.string() })),
    }),
  ),
});

const [path, exitStatus] = process.argv.slice(2);
if (path === undefined) throw new Error('use: test-summary.ts REPORT EXIT_STATUS');
const { testResults } = Report.parse(JSON.parse(readFileSync(path, 'utf8')));

let passed = 0;
let failed = 0;
const skipped: string[] = [];
for (const file of testResults) {
  const count = (status: string): number =>
    file.assertionResults.filter((test) => test.status === status).length;
  passed += count('passed');
  failed += count('failed');
  if (file.status === 'failed' && count('failed') === 0) failed++;
  for (const test of file.assertionResults) {
    if (test.status !== 'passed' && test.status !== 'failed') skipped.push(test.fullName);
  }
}
if (failed === 0 && exitStatus !== '0') {
  console.log(`the test run ended with status ${exitStatus}, outside of any test`);
  failed++;
}
if (skipped.length > 0) console.log(`${skipped.length} skipped:\n  ${skipped.join('\n  ')}`);
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
