// Evaluates a student inside a server; a client that goes away stops its evaluation: npx tsx
// examples/server-evaluation.ts --student runs/first --data labelled
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { parseArgs } from 'node:util';
import { evaluateStudent, LgdError } from 'lgdistill';

const { values: options } = parseArgs({
  options: {
    student: { type: 'string', default: 'runs/first' },
    data: { type: 'string', default: 'labelled' },
    port: { type: 'string', default: '8080' },
  },
});

const server = createServer((request, response) => {
  if (request.url !== '/evaluation') {
    response.writeHead(404).end();
    return;
  }
  const controller = new AbortController();
  response.on('close', () => response.writableEnded || controller.abort(new Error('the client has gone')));
  const config = { device: 'auto', evaluate: { data: options.data } };
  const onProgress = ({ phase, done, total }: { phase: string; done: number; total: number }) =>
    console.log(`${phase} ${done}/${total}`);
  evaluateStudent({ student: options.student, config, signal: controller.signal, onProgress }).then(
    ({ student }) => response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(student)),
    (error: unknown) => {
      console.log(`no evaluation: ${error instanceof LgdError ? error.code : 'UNEXPECTED'}`);
      if (!response.destroyed)
        response.writeHead(500, { 'content-type': 'application/json' }).end(JSON.stringify({ error }));
    },
  );
});
server.listen(Number(options.port), '127.0.0.1', () =>
  console.log(`listening on port ${(server.address() as AddressInfo).port}`),
);
process.once('SIGTERM', () => server.close());
