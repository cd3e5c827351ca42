import { type Client } from "@connectrpc/connect";
import type { Db } from "mongodb";

import { DatabaseAdminService } from "../../../gen/lucid/admin/v1/database_admin_service_pb.ts";
import { type TestApp, testApp } from "../../support/app.ts";

/** The service, and a database of an operator's beside the domain's. */
export interface AdminApp extends AsyncDisposable {
  readonly app: TestApp;
  /** Clients of both listeners. */
  readonly admin: Client<typeof DatabaseAdminService>;
  readonly overHttp: Client<typeof DatabaseAdminService>;
  /** Name of the operator's database, and the server's view of it. */
  readonly database: string;
  readonly db: Db;
  /** The domain's, and the service's own. */
  readonly domain: Db;
  readonly system: Db;
}

export async function adminApp(environment: Readonly<Record<string, string>> = {}): Promise<AdminApp> {
  const app = await testApp(environment);
  const database = app.databaseName();
  const { mongodb } = app.config;
  return {
    app,
    admin: app.client(DatabaseAdminService),
    overHttp: app.http(DatabaseAdminService),
    database,
    db: app.mongodb.db(database),
    domain: app.mongodb.db(mongodb.database),
    system: app.mongodb.db(mongodb.systemDatabase),
    [Symbol.asyncDispose]: () => app[Symbol.asyncDispose](),
  };
}

let made = 0;

/** A name that no other test of this file has. */
export function collectionName(): string {
  return `things ${++made} é`;
}
