import type { DiskSpec, Domain, NicSpec } from '../gen/drover/v1/domain.js';
import { formatSize } from '../util/bytes.js';
import { shortName } from './figures.js';
import type { Page } from './session.js';
import { renderPairs, renderTable } from './table.js';

/** The state in lower case and words: `in doubt`. */
export function stateWord(domain: Domain): string {
  return shortName(domain.state).replaceAll('_', ' ');
}

/**
 * What one wants to know beside the state of a domain: where it is or goes, what a tombstone takes.
 */
export function domainNote(domain: Domain): string {
  const notes: string[] = [];
  if (domain.doubt) notes.push(domain.doubt.message.replace(/\.$/, ''));
  else if (domain.migrationId) notes.push('migrating');
  if (domain.state === 'STATE_MOVED') notes.push(`lives on ${domain.ownerHost || 'another host'}`);
  if (domain.tombstoneBytes > 0) notes.push(`tombstone ${formatSize(domain.tombstoneBytes)}`);
  return notes.join(', ');
}

/** One line that confirms what was done. */
export function confirmation(domain: Domain | undefined): string[] {
  return domain ? [`${domain.spec?.name ?? ''} is ${stateWord(domain)}.`] : [];
}

/** Everything about one domain. */
export function renderDomain(domain: Domain, page: Page): string[] {
  const { spec } = domain;
  const pairs = renderPairs([
    ['name', spec?.name ?? ''],
    ['uuid', spec?.uuid ?? ''],
    ['state', stateWord(domain)],
    ['owner host', domain.ownerHost],
    ['epoch', domain.epoch > 1 ? String(domain.epoch) : ''],
    ['generation', String(domain.generation)],
    ['in doubt', domain.doubt?.message ?? ''],
    ['what to do', domain.doubt?.hint ?? ''],
    ['migration', domain.migrationId],
    ['tombstone', domain.tombstoneBytes > 0 ? formatSize(domain.tombstoneBytes) : ''],
    ['QEMU process', domain.qemuPid > 0 ? String(domain.qemuPid) : ''],
    ['memory', spec ? formatSize(spec.memoryBytes) : ''],
    ['vcpus', spec ? String(spec.vcpus) : ''],
    ['cpu', spec?.cpu ?? ''],
    ['machine', spec?.machine ?? ''],
    ['accelerator', spec?.accelerator ?? ''],
    ['kernel', [spec?.kernel, spec?.kernelArguments].filter(Boolean).join(' ')],
    ['serial console', domain.serialPath],
    ['devices', [spec?.rng && 'rng', spec?.balloon && 'balloon'].filter(Boolean).join(', ')],
  ]);
  return [...pairs, ...renderDisks(spec?.disks ?? [], page), ...renderNics(spec?.nics ?? [], page)];
}

function renderDisks(disks: readonly DiskSpec[], { width, style }: Page): string[] {
  if (disks.length === 0) return [];
  const flags = (disk: DiskSpec) =>
    [disk.readOnly && 'read-only', disk.shared && 'shared', disk.discard === false && 'no discard']
      .filter(Boolean)
      .join(', ');
  const table = renderTable<DiskSpec>(
    [
      { title: 'DISK', value: (d) => d.id, cut: true },
      { title: 'SIZE', value: (d) => formatSize(d.sizeBytes), right: true },
      { title: 'BUS', value: (d) => d.bus },
      { title: 'FORMAT', value: (d) => d.format },
      { title: 'POOL', value: (d) => d.pool, cut: true },
      { title: 'CACHE', value: (d) => d.cache },
      { title: '', value: flags, cut: true },
    ],
    disks,
    width,
    style,
  );
  return ['', ...table];
}

function renderNics(nics: readonly NicSpec[], { width, style }: Page): string[] {
  if (nics.length === 0) return [];
  const table = renderTable<NicSpec>(
    [
      { title: 'NIC', value: (n) => n.id, cut: true },
      { title: 'TYPE', value: (n) => (n.bridge ? `${n.type} on ${n.bridge}` : n.type), cut: true },
      { title: 'MODEL', value: (n) => n.model },
      { title: 'MAC', value: (n) => n.mac },
    ],
    nics,
    width,
    style,
  );
  return ['', ...table];
}
