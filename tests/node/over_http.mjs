// Submits a submission (the first argument) over HTTP, and prints the job when it has ended.
const base = process.env.JOBPLATFORM_URL
const headers = { authorization: `Bearer ${process.env.JOBPLATFORM_API_KEY}` }

const accepted = await fetch(`${base}/v1/jobs`, {
  method: 'POST',
  headers: { ...headers, 'content-type': 'application/json', 'idempotency-key': crypto.randomUUID() },
  body: process.argv[2]
})
const job = await accepted.json()
if (!accepted.ok) {
  console.log(JSON.stringify({ status: accepted.status, problem: job }))
} else {
  const ended = await fetch(`${base}/v1/jobs/${job.id}?wait=60`, { headers })
  console.log(JSON.stringify({ status: accepted.status, job: await ended.json() }))
}
