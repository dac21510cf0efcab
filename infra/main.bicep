// Everything Turnaround needs in Azure. Two apps, because the identity that may reset devices must not be reachable
// from the internet (safety rule S10): the front takes HTTP, can only put requests on one queue and read the table; the
// engine takes no HTTP and alone may speak to Intune. Commands (approve, resume, ...) come on a queue out of its reach.
targetScope = 'subscription'

@description('Name of the azd environment; it makes the names of all resources.')
@minLength(1)
@maxLength(64)
param environmentName string

@description('Region. It must offer the Flex Consumption plan: az functionapp list-flexconsumption-locations.')
@metadata({ azd: { type: 'location' } })
param location string

param resourceGroupName string = 'rg-${environmentName}'

@description('The Microsoft Graph cloud that the tenant lives in.')
@allowed(['global', 'usgov', 'usgovdod'])
param graphCloud string = 'global'

@description('Grant the engine its Microsoft Graph app roles in this deployment. Leave false where another admin grants them.')
param grantGraphPermissions bool = false

@description('Address range (CIDR) that may reach the deployment endpoint of the engine. Empty: nobody, and public access is off.')
param deployFrom string = ''

@description('Where lab-turnover windows are read from, relative to the app.')
param windowsFile string = 'windows.toml'

@description('Where the policy is read from, relative to the app.')
param policyFile string = 'policy.toml'

@description('NCRONTAB schedules of the timers: second minute hour day month day-of-week, in UTC.')
param scheduleWindows string = '0 * * * * *'
param scheduleSync string = '45 * * * * *'
param schedulePoll string = '30 * * * * *'
param scheduleSweep string = '15 * * * * *'

@minValue(1)
@maxValue(1000)
param frontMaximumInstanceCount int = 40

@minValue(1)
@maxValue(1000)
param engineMaximumInstanceCount int = 40

@allowed([512, 2048, 4096])
param instanceMemoryMB int = 2048

var token = toLower(uniqueString(subscription().id, environmentName, location))
var tags = { 'azd-env-name': environmentName }
var deploymentContainer = 'app-package'
var requestsQueue = 'reset-requests'
var dispatchQueue = 'reset-dispatch'
var controlQueue = 'reset-control'
var noticesQueue = 'reset-notices'
var resultsQueue = 'reset-results'
var stateTable = 'turnaround'

resource group 'Microsoft.Resources/resourceGroups@2024-03-01' = {
  name: resourceGroupName
  location: location
  tags: tags
}

module monitoring 'app/monitoring.bicep' = {
  name: 'monitoring'
  scope: group
  params: {
    workspaceName: 'log-${token}'
    applicationInsightsName: 'appi-${token}'
    location: location
    tags: tags
  }
}

module frontIdentity 'app/identity.bicep' = {
  name: 'front-identity'
  scope: group
  params: {
    name: 'id-front-${token}'
    location: location
    tags: tags
  }
}

module engineIdentity 'app/identity.bicep' = {
  name: 'engine-identity'
  scope: group
  params: {
    name: 'id-engine-${token}'
    location: location
    tags: tags
  }
}

// The front's host keeps its keys and its package in an account of its own, so that it needs no right on the engine's.
module frontStorage 'app/storage.bicep' = {
  name: 'front-storage'
  scope: group
  params: {
    name: 'stfront${token}'
    location: location
    tags: tags
    containerNames: [deploymentContainer]
  }
}

// The engine's account holds the queues and the state table. The four queues that trigger a function have a poison
// queue; reset-results has none: whoever asked for resets reads it.
module engineStorage 'app/storage.bicep' = {
  name: 'engine-storage'
  scope: group
  params: {
    name: 'stengine${token}'
    location: location
    tags: tags
    containerNames: [deploymentContainer]
    queueNames: [
      requestsQueue
      '${requestsQueue}-poison'
      dispatchQueue
      '${dispatchQueue}-poison'
      controlQueue
      '${controlQueue}-poison'
      noticesQueue
      '${noticesQueue}-poison'
      resultsQueue
    ]
    tableNames: [stateTable]
  }
}

module frontAccess 'app/front-access.bicep' = {
  name: 'front-access'
  scope: group
  params: {
    principalId: frontIdentity.outputs.principalId
    hostStorageName: frontStorage.outputs.name
    stateStorageName: engineStorage.outputs.name
    sendQueueNames: [requestsQueue]
    stateTableName: stateTable
    applicationInsightsName: monitoring.outputs.applicationInsightsName
  }
}

module engineAccess 'app/engine-access.bicep' = {
  name: 'engine-access'
  scope: group
  params: {
    principalId: engineIdentity.outputs.principalId
    storageName: engineStorage.outputs.name
    applicationInsightsName: monitoring.outputs.applicationInsightsName
  }
}

module front 'app/function-app.bicep' = {
  name: 'front'
  scope: group
  params: {
    name: 'func-front-${token}'
    planName: 'plan-front-${token}'
    location: location
    tags: tags
    serviceName: 'front'
    publicIngress: true
    identityId: frontIdentity.outputs.id
    identityClientId: frontIdentity.outputs.clientId
    hostStorageName: frontStorage.outputs.name
    deploymentContainerName: deploymentContainer
    applicationInsightsName: monitoring.outputs.applicationInsightsName
    maximumInstanceCount: frontMaximumInstanceCount
    instanceMemoryMB: instanceMemoryMB
    appSettings: {
      TURNAROUND_ROLE: 'front'
      TURNAROUND_TENANT_ID: tenant().tenantId
      TURNAROUND_TABLE: stateTable
      TURNAROUND_STORAGE__credential: 'managedidentity'
      TURNAROUND_STORAGE__clientId: frontIdentity.outputs.clientId
      TURNAROUND_STORAGE__queueServiceUri: engineStorage.outputs.queueEndpoint
      TURNAROUND_STORAGE__tableServiceUri: engineStorage.outputs.tableEndpoint
    }
  }
  dependsOn: [frontAccess]
}

module engine 'app/function-app.bicep' = {
  name: 'engine'
  scope: group
  params: {
    name: 'func-engine-${token}'
    planName: 'plan-engine-${token}'
    location: location
    tags: tags
    serviceName: 'engine'
    publicIngress: false
    deployFrom: deployFrom
    identityId: engineIdentity.outputs.id
    identityClientId: engineIdentity.outputs.clientId
    hostStorageName: engineStorage.outputs.name
    deploymentContainerName: deploymentContainer
    applicationInsightsName: monitoring.outputs.applicationInsightsName
    maximumInstanceCount: engineMaximumInstanceCount
    instanceMemoryMB: instanceMemoryMB
    appSettings: {
      TURNAROUND_ROLE: 'engine'
      TURNAROUND_TENANT_ID: tenant().tenantId
      TURNAROUND_TABLE: stateTable
      TURNAROUND_STORAGE__credential: 'managedidentity'
      TURNAROUND_STORAGE__clientId: engineIdentity.outputs.clientId
      TURNAROUND_STORAGE__queueServiceUri: engineStorage.outputs.queueEndpoint
      TURNAROUND_STORAGE__tableServiceUri: engineStorage.outputs.tableEndpoint
      TURNAROUND_GRAPH__CLOUD: graphCloud
      TURNAROUND_GRAPH__CLIENT_ID: engineIdentity.outputs.clientId
      TURNAROUND_POLICY_FILE: policyFile
      TURNAROUND_WINDOWS_FILE: windowsFile
      TURNAROUND_SCHEDULE_WINDOWS: scheduleWindows
      TURNAROUND_SCHEDULE_SYNC: scheduleSync
      TURNAROUND_SCHEDULE_POLL: schedulePoll
      TURNAROUND_SCHEDULE_SWEEP: scheduleSweep
    }
  }
  dependsOn: [engineAccess]
}

module graphRoles 'graph/app-roles.bicep' = if (grantGraphPermissions) {
  name: 'graph-app-roles'
  scope: group
  params: {
    principalId: engineIdentity.outputs.principalId
  }
}

// azd keeps these in its environment, for docs/deploy.md's commands.
output AZURE_LOCATION string = location
output AZURE_TENANT_ID string = tenant().tenantId
output AZURE_RESOURCE_GROUP string = group.name
output FRONT_NAME string = front.outputs.name
output FRONT_URL string = front.outputs.url
output ENGINE_NAME string = engine.outputs.name
output ENGINE_STORAGE_NAME string = engineStorage.outputs.name
output ENGINE_PRINCIPAL_ID string = engineIdentity.outputs.principalId
