// Submits the submissions on standard input (a JSON array of {properties, submission}) over AMQP, and prints the answers by the
// ids of their messages. AMQP_URL is that of a user whose name is the tenant's.
import { readFileSync } from 'node:fs'
import amqp from 'amqplib'

const connection = await amqp.connect(process.env.AMQP_URL)
const channel = await connection.createConfirmChannel()
const submissions = JSON.parse(readFileSync(0, 'utf8'))
const answers = {}
const enough = new Promise((resolve) => {
  // RabbitMQ's own queue for answers: nothing has to be declared, and no right is needed
  channel.consume('amq.rabbitmq.reply-to', (message) => {
    answers[message.properties.correlationId] = {
      accepted: message.properties.contentType === 'application/json',
      ...JSON.parse(message.content.toString())
    }
    if (Object.keys(answers).length === submissions.length) resolve()
  }, { noAck: true })
})
for (const { properties, submission } of submissions) {
  const body = typeof submission === 'string' ? submission : JSON.stringify(submission)
  channel.publish('jobs.submit', '', Buffer.from(body), {
    contentType: 'application/json',
    persistent: true,
    replyTo: 'amq.rabbitmq.reply-to',
    correlationId: properties.messageId ?? properties.correlationId,
    ...properties
  })
}
await channel.waitForConfirms()
await enough
await connection.close()
console.log(JSON.stringify(answers))
