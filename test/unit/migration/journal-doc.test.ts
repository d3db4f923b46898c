import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { JOURNAL_RECORDS, type RecordRule } from '../../../src/migration/journal-records.js';

describe('docs/journal.md', () => {
  it('has the row of every record, and of no other', () => {
    const text = readFileSync(new URL('../../../docs/journal.md', import.meta.url), 'utf8');
    const rows = text.split('\n').filter((line) => /^\| `[A-Z_]+` \| (yes|no) \|/.test(line));
    const records: [string, RecordRule][] = Object.entries(JOURNAL_RECORDS);
    expect(rows).toEqual(
      records.map(
        ([name, rule]) => `| \`${name}\` | ${rule.durable ? 'yes' : 'no'} | ${rule.meaning} |`,
      ),
    );
  });
});
