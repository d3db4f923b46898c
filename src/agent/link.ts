import { z } from 'zod';
import { DEFAULT_LINK, type LinkSettings } from '../migration/traffic.js';
import { wholeNumber } from '../spec/fields.js';

/** Less than this could not even keep up with a guest that does next to nothing. */
const LEAST_BYTES_PER_S = 1024 ** 2;
const MOST_BYTES_PER_S = 2 ** 40;
const MOST_RAM_PHASES = 8;

/** The schema of the group `link`; what is left out has its default. */
export function linkSchema() {
  const allowed = `must be 0, or a whole number from ${LEAST_BYTES_PER_S} to ${MOST_BYTES_PER_S}`;
  const rate = (name: keyof LinkSettings) =>
    wholeNumber(0, MOST_BYTES_PER_S, allowed)
      .refine((value) => value === 0 || value >= LEAST_BYTES_PER_S, { error: allowed })
      .default(DEFAULT_LINK[name]);
  const phases = `must be a whole number from 1 to ${MOST_RAM_PHASES}`;
  return z.strictObject(
    {
      egressBytesPerS: rate('egressBytesPerS'),
      ingressBytesPerS: rate('ingressBytesPerS'),
      ramPhases: wholeNumber(1, MOST_RAM_PHASES, phases).default(DEFAULT_LINK.ramPhases),
    },
    { error: 'must be a group of fields' },
  );
}
