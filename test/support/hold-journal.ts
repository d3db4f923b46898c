import { Journal } from '../../src/migration/journal.js';

/*
 * Loaded into an agent before itself: at the record that DROVER_TEST_HOLD names, as in
 * "after SWITCHING", the migration stands still for ever, and a line on stdout says so. Everything
 * else of the agent goes on.
 */

const [when, record] = (process.env['DROVER_TEST_HOLD'] ?? '').split(' ');
const append = Journal.prototype.append;

Journal.prototype.append = async function (this: Journal, name, details) {
  const stand = async () => {
    process.stdout.write('held\n');
    await new Promise(() => undefined);
  };
  if (name === record && when === 'before') await stand();
  const entry = await append.call(this, name, details);
  if (name === record && when === 'after') await stand();
  return entry;
};
