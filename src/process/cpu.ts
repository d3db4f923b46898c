import type { QmpClient } from '../qmp/client.js';
import { withProbe } from './probe.js';

/** A CPU to expand. */
export interface CpuRequest {
  /** A model that `-cpu help` lists, such as "max" or "Nehalem-v1". */
  readonly model: string;
  /** Machine type; its compatibility settings change what a model means. */
  readonly machine: string;
  readonly accelerator: 'tcg' | 'kvm';
}

/** A CPU as a fixed list of properties. Plain JSON. */
export interface ExpandedCpu {
  /** The model that the properties belong to: one that has nothing enabled and never changes. */
  readonly model: string;
  /**
   * Features that are on, and numbers and names such as `family` and `vendor`. What is off is left
   * out.
   */
  readonly properties: Readonly<Record<string, boolean | number | string>>;
  /**
   * Features of the wanted model that this host and accelerator cannot give; they are not in
   * `properties`.
   */
  readonly missingFeatures: readonly string[];
}

/**
 * Not part of a static expansion, yet visible to the guest and set by some models from the host.
 */
const ALSO_READ = ['pmu', 'phys-bits'];

/**
 * Expands a CPU model to the features a guest would see on this host. The static expansion gives
 * the names that the model "base" understands, which has nothing enabled and is the same in every
 * QEMU and machine version. The values are read from a CPU that was really made: for "max" the
 * expansion itself has family and model 0, and features that the accelerator lacks are filtered
 * only there. What a model says of its caches is lost, because QEMU has no property for it: such a
 * guest sees QEMU's generic caches, the same on every host.
 */
export async function expandCpu(
  binary: string,
  request: CpuRequest,
  options: { readonly signal?: AbortSignal } = {},
): Promise<ExpandedCpu> {
  const { model, machine, accelerator } = request;
  const argv = ['-machine', `${machine},accel=${accelerator}`, '-cpu', model, '-m', '64'];
  return withProbe(binary, argv, options, async (qmp) => {
    const expansion = await qmp.execute('query-cpu-model-expansion', {
      type: 'static',
      model: { name: model },
    });
    const path = (await qmp.execute('query-cpus-fast'))[0]?.['qom-path'] ?? '';
    const names = [...Object.keys(expansion.model.props ?? {}), ...ALSO_READ];
    const values = await Promise.all(
      names.map(async (name) => [name, await read(qmp, path, name)] as const),
    );
    const unavailable = await read(qmp, path, 'unavailable-features');
    return {
      model: expansion.model.name,
      properties: Object.fromEntries(values.filter(isSet)),
      missingFeatures: Array.isArray(unavailable) ? unavailable.map(String) : [],
    };
  });
}

function read(qmp: QmpClient, path: string, property: string): Promise<unknown> {
  return qmp.execute('qom-get', { path, property });
}

/** "base" has every feature off, so only what is on must be said. */
function isSet(
  entry: readonly [string, unknown],
): entry is readonly [string, boolean | number | string] {
  const value = entry[1];
  return value === true || typeof value === 'number' || typeof value === 'string';
}
