// Moves a disk and a VM with xen-api's own transfers, as Xen Orchestra does. Argument: JSON with url, user, password,
// vdi (holds noise), target (of the same size) and vm.

import { Readable } from 'node:stream'
import { createHash } from 'node:crypto'
import { createClient } from 'xen-api'

const { url, user, password, vdi, target, vm, sr } = JSON.parse(process.argv[2])

const xapi = createClient({ allowUnauthorized: true, auth: { user, password }, url })

const body = async response => {
  const stream = response.body ?? response
  const chunks = []
  for await (const chunk of stream) {
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}
const digest = data => createHash('sha256').update(data).digest('hex')
const get = async (path, query) => body(await xapi.getResource(path, { query, task: true }))

await xapi.connect()
await xapi.objectsFetched

const seen = {}
const raw = await get('/export_raw_vdi/', { vdi, format: 'raw' })
seen.source = digest(raw)

// a body of known length, then the same as a stream of unknown length, for which a pebibyte is announced
const vhd = await get('/export_raw_vdi/', { vdi, format: 'vhd' })
seen.buffer = await xapi.putResource(raw, '/import_raw_vdi/', { query: { vdi: target, format: 'raw' }, task: true })
seen.afterBuffer = digest(await get('/export_raw_vdi/', { vdi: target, format: 'raw' }))
seen.stream = await xapi.putResource(Readable.from([vhd.subarray(0, 1e6), vhd.subarray(1e6)]), '/import_raw_vdi/', {
  query: { vdi: target, format: 'vhd' },
  task: true,
})
seen.afterStream = digest(await get('/export_raw_vdi/', { vdi: target, format: 'raw' }))

const archive = await get('/export/', { ref: vm, use_compression: 'zstd' })
const stream = Readable.from([archive])
stream.length = archive.length
seen.vms = await xapi.putResource(stream, '/import/', { query: { sr_id: sr }, task: true })

try {
  await xapi.putResource(archive.subarray(0, 1000), '/import/', { query: { sr_id: sr }, task: true })
} catch (error) {
  seen.error = error.code
}

await xapi.disconnect()
console.log(JSON.stringify(seen))
process.exit(0)
