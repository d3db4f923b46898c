/** The invariants, by the names under which a violation is reported. */
export const INVARIANTS = {
  I1: 'two hosts run the guest',
  I2: 'a copy runs although a later one has run',
  I3: 'a copy runs on images that miss an acknowledged write',
  I4: 'a cold start takes the wrong images',
  I5: 'the source is discarded before the destination owns the guest',
  I6: 'no way leads out without further faults',
  I7: 'something is started under quarantine',
  I8: 'the guest runs on images that are still exported',
  I9: 'the rescue process acts after the decision was handed over',
  I10: 'a copy that counts is discarded',
} as const;

export type InvariantName = keyof typeof INVARIANTS;
