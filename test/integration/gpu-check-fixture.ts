/** What tests of scripts for a GPU share: rows that they write, and programs that stand in for others. */
import { chmod, writeFile } from 'node:fs/promises';

export interface Row {
  part: string;
  name: string;
  good?: boolean;
  value?: string;
  what?: string;
  products?: string;
  launches?: string;
}

export async function writeProgram(path: string, text: string): Promise<void> {
  await writeFile(path, `#!/bin/sh\n${text}\n`);
  await chmod(path, 0o755);
}
