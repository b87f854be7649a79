// Xen Orchestra's own client, unmodified: logs in, lists every class, follows events, starts and stops a VM.
// Takes one JSON object on the command line and prints one: what it saw, for the test to judge.

import { createClient } from 'xen-api'

const { url, user, password, transport, vm: vmRef } = JSON.parse(process.argv[2])
const seen = { states: [], operations: 0 }

const xapi = createClient({
  allowUnauthorized: true,
  auth: { user, password },
  debounce: 20,
  transport,
  url,
})

const untilState = state =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`the VM was never seen ${state}`)), 30e3)
    const look = () => {
      const vm = xapi.getObjectByRef(vmRef, undefined)
      if (vm?.power_state === state) {
        seen.states.push(state)
        clearTimeout(timer)
        xapi.objects.removeListener('update', look)
        resolve(vm)
      }
    }
    xapi.objects.on('update', look)
    look()
  })

await xapi.connect()
await xapi.objectsFetched

const methods = await xapi.call('system.listMethods')
const classes = methods.filter(name => /^[^.]+\.get_all_records$/.test(name)).map(name => name.split('.')[0])
seen.records = {}
for (const name of classes) {
  seen.records[name] = Object.values(await xapi.call(`${name}.get_all_records`)).length
}
seen.fetched = Object.values(xapi.objects.all).map(object => object.$type)

xapi.objects.on('update', updated => {
  seen.operations += Object.keys(updated).length
})

// The barrier of Xen Orchestra: a write is followed by its event, after all that was written before.
const pool = xapi.pool
await xapi.call('pool.set_name_description', pool.$ref, `seen by ${transport}`)
seen.description = (await xapi.barrier(pool.$ref)).name_description

await untilState('Halted')
await xapi.call('VM.start', vmRef, false, false)
seen.domid = (await untilState('Running')).domid
await xapi.callAsync('VM.hard_shutdown', vmRef)
await untilState('Halted')

seen.clone = await xapi.callAsync('VM.clone', vmRef, 'a clone')
seen.cloneLabel = (await xapi.barrier(seen.clone)).name_label
await xapi.callAsync('VM.destroy', seen.clone)

try {
  await xapi.call('VM.start', 'OpaqueRef:nothing', false, false)
} catch (error) {
  seen.error = { code: error.code, params: error.params }
}

await xapi.disconnect()
console.log(JSON.stringify(seen))
process.exit(0)
