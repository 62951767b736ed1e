/** Files of models from the Hugging Face hub, or from the mirror that HF_ENDPOINT names. */
import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { LgdError, throwIfAborted, writeError } from '../errors.js';
import { makeFolder } from '../files/make-folder.js';
import { syncFile } from '../files/sync.js';
import { removeLeft, temporaryPath } from '../files/temporary-name.js';
import { endedBy } from '../lifetime.js';

const answerTimeout = 10_000; // ms until the server must have begun to answer
const stallTimeout = 30_000; // ms a download may go without a byte

/** The commit that `main` is at, and the files it has. */
export async function describeModel(
  id: string,
  signal: AbortSignal | undefined,
): Promise<{ commit: string; available: Set<string> }> {
  const { response, stop } = await request(id, `api/models/${id}/revision/main`, signal);
  try {
    const { sha, siblings } = (await response.json()) as { sha?: string; siblings?: { rfilename: string }[] };
    const commit = /^[0-9a-f]{7,64}$/u.test(sha ?? '') ? sha! : 'main';
    return { commit, available: new Set(siblings?.map((sibling) => sibling.rfilename)) };
  } catch (cause) {
    throw unreachable(id, cause);
  } finally {
    stop();
  }
}

/**
 * Fetches a file of a model to a path, which has all of it or nothing.
 * @throws LgdError FILE_NOT_FOUND, NOT_WRITABLE, ABORTED
 */
export async function downloadFile(
  id: string,
  commit: string,
  file: string,
  path: string,
  {
    signal,
    onProgress,
  }: {
    signal?: AbortSignal | undefined;
    onProgress?: ((progress: { file: string; received: number; total: number | undefined }) => void) | undefined;
  },
): Promise<void> {
  await makeFolder(dirname(path));
  await removeLeft(path);
  const temporary = temporaryPath(path);
  const { response, restart, stop } = await request(id, `${id}/resolve/${commit}/${file}`, signal);
  const size = response.headers.get('content-encoding') === null ? response.headers.get('content-length') : null;
  const total = size === null ? undefined : Number(size);
  try {
    const handle = await open(temporary, 'wx').catch((cause: unknown) => {
      throw writeError(path, cause);
    });
    let received = 0;
    const written = async (work: Promise<void>) =>
      work.catch((cause: unknown) => {
        throw writeError(path, cause);
      });
    await endedBy(
      () => written(handle.close()),
      async () => {
        for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
          restart(stallTimeout);
          await written(handle.writeFile(chunk));
          received += chunk.byteLength;
          onProgress?.({ file, received, total });
        }
        await written(syncFile(handle)); // a power cut must not leave a part in the cache
      },
    );
    if (total !== undefined && received !== total) throw new Error(`${file} ended after ${received} of ${total} bytes`);
    await written(rename(temporary, path));
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throwIfAborted(signal, `the download of ${id}`);
    throw cause instanceof LgdError ? cause : unreachable(id, cause);
  } finally {
    stop();
  }
}

interface Request {
  response: Response;
  /** Gives the rest of the answer this many more milliseconds. */
  restart: (milliseconds: number) => void;
  stop: () => void;
}

/** One GET of the hub that ends by answer, error, signal or timeout, never by hanging. */
async function request(id: string, path: string, signal: AbortSignal | undefined): Promise<Request> {
  throwIfAborted(signal, `the download of ${id}`);
  const controller = new AbortController();
  const expire = () => controller.abort(new Error('the server did not answer in time'));
  const forward = () => controller.abort(signal?.reason);
  let timer = setTimeout(expire, answerTimeout);
  const restart = (milliseconds: number) => {
    clearTimeout(timer);
    timer = setTimeout(expire, milliseconds);
  };
  const stop = () => {
    clearTimeout(timer);
    signal?.removeEventListener('abort', forward);
  };
  signal?.addEventListener('abort', forward, { once: true });
  try {
    const response = await fetch(`${endpoint()}/${path}`, { headers: requestHeaders(), signal: controller.signal });
    if (!response.ok) throw refused(id, response.status);
    restart(stallTimeout);
    return { response, restart, stop };
  } catch (cause) {
    stop();
    throwIfAborted(signal, `the download of ${id}`);
    throw cause instanceof LgdError ? cause : unreachable(id, cause);
  }
}

function endpoint(): string {
  return (process.env['HF_ENDPOINT'] || 'https://huggingface.co').replace(/\/+$/u, '');
}

function requestHeaders(): Record<string, string> {
  // for private and gated models, as every Hugging Face client does; fetch drops it on a redirect to another host
  const token = process.env['HF_TOKEN'];
  return { 'user-agent': 'lgdistill', ...(token ? { authorization: `Bearer ${token}` } : {}) };
}

function refused(id: string, status: number): LgdError {
  if (status === 401 || status === 404) {
    return new LgdError('FILE_NOT_FOUND', `${endpoint()} knows no public model ${id}.`, {
      mend: `Check its spelling ('org/name'), set HF_TOKEN for a private one, or write './${id}' for a folder`,
    });
  }
  const why = status === 403 ? 'access is refused' : `the server answered ${status}`;
  return new LgdError('FILE_NOT_FOUND', `the model ${id} cannot be fetched from ${endpoint()}: ${why}.`, {
    mend:
      status === 403
        ? "Accept the model's conditions on its page and set HF_TOKEN"
        : 'Try again later, or give a local folder',
  });
}

function unreachable(id: string, cause: unknown): LgdError {
  const inner = (cause as Error).cause;
  const why = inner instanceof Error && inner.message !== '' ? inner.message : (cause as Error).message;
  const proxy =
    process.env['NODE_USE_ENV_PROXY'] === '1'
      ? undefined
      : ['HTTPS_PROXY', 'https_proxy'].find((name) => process.env[name]);
  return new LgdError(
    'FILE_NOT_FOUND',
    `the model ${id} is not on this machine, and ${endpoint()} cannot be reached: ${why}.`,
    {
      mend:
        proxy === undefined
          ? 'Check the network, set HF_ENDPOINT to a mirror, or copy the model here and give its folder'
          : `Set NODE_USE_ENV_PROXY=1, without which Node (22.21 or later) takes no notice of ${proxy}; or copy the model here and give its folder`,
      cause,
    },
  );
}
