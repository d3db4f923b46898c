import type { QueryBlockstatsResultItemStats } from '../../../src/qmp/types.gen.js';

/** What a fake guest has written to one disk. */
export class WriteStatistics {
  #bytes = 0;
  #writes = 0;
  #waitedMs = 0;

  add(bytes: number, waitedMs: number): void {
    this.#bytes += bytes;
    this.#writes++;
    this.#waitedMs += waitedMs;
  }

  /** As in `query-blockstats`; what a fake does not count is zero. */
  describe(): QueryBlockstatsResultItemStats {
    return {
      ...NOTHING,
      wr_bytes: this.#bytes,
      wr_operations: this.#writes,
      wr_total_time_ns: Math.round(this.#waitedMs * 1e6),
    };
  }
}

const NOTHING: QueryBlockstatsResultItemStats = {
  rd_bytes: 0,
  wr_bytes: 0,
  zone_append_bytes: 0,
  unmap_bytes: 0,
  rd_operations: 0,
  wr_operations: 0,
  zone_append_operations: 0,
  flush_operations: 0,
  unmap_operations: 0,
  rd_total_time_ns: 0,
  wr_total_time_ns: 0,
  zone_append_total_time_ns: 0,
  flush_total_time_ns: 0,
  unmap_total_time_ns: 0,
  wr_highest_offset: 0,
  rd_merged: 0,
  wr_merged: 0,
  zone_append_merged: 0,
  unmap_merged: 0,
  failed_rd_operations: 0,
  failed_wr_operations: 0,
  failed_zone_append_operations: 0,
  failed_flush_operations: 0,
  failed_unmap_operations: 0,
  invalid_rd_operations: 0,
  invalid_wr_operations: 0,
  invalid_zone_append_operations: 0,
  invalid_flush_operations: 0,
  invalid_unmap_operations: 0,
  account_invalid: true,
  account_failed: true,
  timed_stats: [],
};
