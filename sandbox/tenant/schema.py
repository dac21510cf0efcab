"""Names and types of the properties the simulated Graph knows, from the published v1.0 metadata document.

Source: https://graph.microsoft.com/v1.0/$metadata (entity types managedDevice, device and
windowsAutopilotDeviceIdentity); the beta-only ones from the beta reference pages of the same resources.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    kind = ""
    for word in text.split():
        if word.endswith(":"):
            kind = word[:-1]
        else:
            yield word, kind


def _table(text: str) -> Mapping[str, str]:
    """Turn lines of `type: name name ...` into name -> type."""
    return MappingProxyType(dict(_pairs(text)))


def _members(text: str) -> Mapping[str, frozenset[str]]:
    """Turn lines of `enum: member member ...` into enum -> members."""
    found: dict[str, set[str]] = {}
    for member, enum in _pairs(text):
        found.setdefault(enum, set()).add(member)
    return MappingProxyType({enum: frozenset(members) for enum, members in found.items()})


ENUMS: Mapping[str, frozenset[str]] = _members(
    """
    complianceState: compliant configManager conflict error inGracePeriod noncompliant unknown
    deviceEnrollmentType: appleBulkWithUser appleBulkWithoutUser appleUserEnrollment
        appleUserEnrollmentWithServiceAccount deviceEnrollmentManager unknown unknownFutureValue
        userEnrollment windowsAutoEnrollment windowsAzureADJoin windowsAzureADJoinUsingDeviceAuth
        windowsBulkAzureDomainJoin windowsBulkUserless windowsCoManagement
    deviceManagementExchangeAccessState: allowed blocked none quarantined unknown
    deviceManagementExchangeAccessStateReason: azureADBlockDueToAccessPolicy compliant compromisedPassword
        deviceNotKnownWithManagedApp exchangeDeviceRule exchangeGlobalRule exchangeIndividualRule
        exchangeMailboxPolicy exchangeUpgrade mfaRequired none notCompliant notEnrolled other unknown
        unknownLocation
    deviceRegistrationState: approvalPending certificateReset keyConflict notRegistered
        notRegisteredPendingEnrollment registered revoked unknown
    enrollmentState: enrolled failed notContacted pendingReset unknown
    managedDeviceOwnerType: company personal unknown unknownFutureValue
    managedDevicePartnerReportedHealthState: activated compromised deactivated highSeverity lowSeverity
        mediumSeverity misconfigured secured unknown unresponsive
    managementAgentType: configurationManagerClient configurationManagerClientMdm
        configurationManagerClientMdmEas eas easIntuneClient easMdm googleCloudDevicePolicyController
        intuneClient jamf mdm microsoft365ManagedMdm msSense unknown
    managementState: deletePending discovered managed retireCanceled retireFailed retireIssued retirePending
        unhealthy unknownFutureValue wipeCanceled wipeFailed wipeIssued wipePending
    """
)
"""The published members of each enum type; the wire may carry others."""

MANAGED_DEVICE: Mapping[str, str] = _table(
    """
    String: id activationLockBypassCode androidSecurityPatchLevel azureADDeviceId deviceCategoryDisplayName
        deviceName easDeviceId emailAddress enrollmentProfileName ethernetMacAddress iccid imei jailBroken
        managedDeviceName manufacturer meid model notes operatingSystem osVersion phoneNumber
        remoteAssistanceSessionErrorDetails remoteAssistanceSessionUrl serialNumber subscriberCarrier udid
        userDisplayName userId userPrincipalName wiFiMacAddress
    Boolean: azureADRegistered easActivated isEncrypted isSupervised requireUserEnrollmentApproval
    DateTimeOffset: complianceGracePeriodExpirationDateTime easActivationDateTime enrolledDateTime
        exchangeLastSuccessfulSyncDateTime lastSyncDateTime managementCertificateExpirationDate
    complianceState: complianceState
    Complex: configurationManagerClientEnabledFeatures deviceHealthAttestationState
    Collection: deviceActionResults
    deviceEnrollmentType: deviceEnrollmentType
    deviceRegistrationState: deviceRegistrationState
    deviceManagementExchangeAccessState: exchangeAccessState
    deviceManagementExchangeAccessStateReason: exchangeAccessStateReason
    Int64: freeStorageSpaceInBytes physicalMemoryInBytes totalStorageSpaceInBytes
    managedDeviceOwnerType: managedDeviceOwnerType
    managementAgentType: managementAgent
    managementState: managementState
    managedDevicePartnerReportedHealthState: partnerReportedThreatState
    """
)
"""managedDevice, v1.0."""

ENTRA_DEVICE: Mapping[str, str] = _table(
    """
    String: id deviceCategory deviceId deviceMetadata deviceOwnership displayName enrollmentProfileName
        enrollmentType managementType manufacturer mdmAppId model onPremisesSecurityIdentifier operatingSystem
        operatingSystemVersion profileType trustType
    Boolean: accountEnabled isCompliant isManaged isManagementRestricted isRooted onPremisesSyncEnabled
    DateTimeOffset: approximateLastSignInDateTime complianceExpirationDateTime onPremisesLastSyncDateTime
        registrationDateTime deletedDateTime
    Int32: deviceVersion
    Collection: physicalIds systemLabels alternativeSecurityIds
    """
)
"""device, v1.0."""

AUTOPILOT_IDENTITY: Mapping[str, str] = _table(
    """
    String: id addressableUserName azureActiveDirectoryDeviceId displayName groupTag managedDeviceId
        manufacturer model productKey purchaseOrderIdentifier resourceName serialNumber skuNumber systemFamily
        userPrincipalName
    enrollmentState: enrollmentState
    DateTimeOffset: lastContactedDateTime
    """
)
"""windowsAutopilotDeviceIdentity, v1.0."""

MANAGED_DEVICE_BETA: Mapping[str, str] = MappingProxyType(
    {
        **MANAGED_DEVICE,
        **_table(
            """
            String: joinType skuFamily chassisType deviceType ownerType lostModeState processorArchitecture
                enrolledByUserPrincipalName securityPatchLevel specificationVersion
            Boolean: autopilotEnrolled
            Int32: skuNumber
            Collection: roleScopeTagIds usersLoggedOn
            """
        ),
    }
)
"""joinType, autopilotEnrolled and their like are beta only: v1.0 refuses to select them."""

AUTOPILOT_IDENTITY_BETA: Mapping[str, str] = MappingProxyType(
    {
        **AUTOPILOT_IDENTITY,
        **_table("String: azureAdDeviceId deploymentProfileAssignmentStatus userlessEnrollmentStatus"),
    }
)
"""beta spells the Entra device id a second way, azureAdDeviceId."""

AUDIT: Mapping[str, str] = _table(
    """
    String: id deviceDisplayName userName initiatedByUserPrincipalName action deviceOwnerUserPrincipalName deviceIMEI
        actionState managedDeviceId deviceActionCategory bulkDeviceActionId
    DateTimeOffset: requestDateTime
    """
)
"""remoteActionAudit, beta only."""
