import { MongoClient } from "mongodb";
const c = await MongoClient.connect(process.env.LUCID_MONGODB_URI);
const db = c.db("blk_probe2");
const b = db.collection("b");
await b.createIndex({ k: 1 }, { unique: true });
for (const [n, f] of [
  ["insert", (i) => b.insertOne({ k: i })],
  ["find", (i) => b.findOne({ k: i })],
  ["update", (i) => b.updateOne({ k: i }, { $set: { x: 1 }, $inc: { r: 1n } })],
  ["pipeline", (i) => b.findOneAndUpdate({ k: i }, [{ $set: { x: 2 } }])],
]) {
  const t = [];
  for (let i = 0; i < 20; i++) {
    const s = performance.now();
    await f(i);
    t.push(performance.now() - s);
  }
  t.sort((a, b) => a - b);
  console.log(n, t[10].toFixed(1), t[19].toFixed(1));
}
await db.dropDatabase();
await c.close();
