import type { ExpandedCpu } from '../process/cpu.js';
import type { FixedCpu } from './definitions.js';
import { DomainError } from './errors.js';

const NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;
/** The option has no way to quote a comma, so a value with one would become other options. */
const VALUE = /^[\x20-\x2b\x2d-\x7e]{1,128}$/;

/** Takes over what an expansion gave: features that are on or off, and the rest as text. */
export function fixCpu({
  model,
  properties: expanded,
}: Pick<ExpandedCpu, 'model' | 'properties'>): FixedCpu {
  const features: Record<string, boolean> = {};
  const properties: Record<string, string> = {};
  for (const [name, value] of Object.entries(expanded)) {
    if (typeof value === 'boolean') features[name] = value;
    else properties[name] = String(value).replaceAll(',', ' ');
  }
  return { model, features, properties };
}

/**
 * Writes the value of `-cpu`. With `enforce` QEMU starts this very CPU or refuses.
 *
 * @throws DomainError `REQUEST_INVALID` where a part, which may come from another host, is no plain
 * name or value
 */
export function cpuArgument(cpu: FixedCpu): string {
  const settings = [
    ...Object.entries(cpu.properties).map(([name, value]) => [name, plain(VALUE, value)]),
    ...Object.entries(cpu.features).map(([name, on]) => [name, on ? 'on' : 'off']),
  ].map(([name, value]) => `${plain(NAME, name)}=${value}`);
  return [plain(NAME, cpu.model), ...settings.sort(), 'enforce'].join(',');
}

function plain(pattern: RegExp, value: string | undefined): string {
  if (value !== undefined && pattern.test(value)) return value;
  throw new DomainError(
    'REQUEST_INVALID',
    `The CPU has a part that cannot be said to QEMU: ${JSON.stringify(value?.slice(0, 64))}.`,
  );
}
