import { describe, expect, test } from 'vitest';
import { createTap, deleteTap } from '../../../src/process/tap.js';

describe('a tap', () => {
  test.each(['', '-x', 'sixteen-letters-', 'a b', 'a/b', 'a;b', '../x'])(
    'is not made with the name "%s", and no other one is looked for',
    async (name) => {
      const error = { name: 'TapError', problem: 'NAME_INVALID' };
      await expect(createTap({ name, bridge: 'br0' })).rejects.toMatchObject(error);
      await expect(createTap({ name: 'tap0', bridge: name })).rejects.toMatchObject(error);
      await expect(deleteTap(name)).rejects.toMatchObject(error);
    },
  );
});
